package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// fresh recreates a database, as a copy of another one if that is named.
func (b *bench) fresh(ctx context.Context, s *pgtest.Server, name, template string) (string, error) {
	if s == b.source {
		b.dropSlots(ctx)
	}
	create := `create database ` + name
	if template != "" {
		create += ` template ` + template
		if s.Major >= 15 {
			create += ` strategy file_copy`
		}
	}
	err := execute(ctx, s.URL("postgres"), `drop database if exists `+name+` with (force)`, create, `checkpoint`)
	return s.URL(name), err
}

// dropSlots drops what a workload, or one that was interrupted, has left.
func (b *bench) dropSlots(ctx context.Context) {
	for _, name := range []string{slot, backlogs, peerSlot, peerBacklogs} {
		b.dropSlot(ctx, b.source.URL("postgres"), name) //nolint:errcheck // where it matters the next one fails
	}
}

// dropSlot waits for the walsender to let go of a slot first.
func (b *bench) dropSlot(ctx context.Context, dsn, name string) error {
	var err error
	for range 200 {
		err = execute(ctx, dsn, `select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '`+name+`'`)
		if err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

func execute(ctx context.Context, dsn string, statements ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// number is the result of a query; 0 where there is none.
func number(ctx context.Context, dsn, sql string) int {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var n *int
	if err := conn.QueryRow(ctx, sql).Scan(&n); err != nil || n == nil {
		return 0
	}
	return *n
}

// text is the one value of a query.
func text(ctx context.Context, dsn, sql string) (value string, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return value, conn.QueryRow(ctx, sql).Scan(&value)
}

// contents sums up the rows of all tables, whatever their order.
func contents(ctx context.Context, dsn string) (string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tables, err := tablesOf(ctx, dsn)
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, t := range tables {
		var sum string
		err := conn.QueryRow(ctx, `select count(*)::text || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0)::text from only `+t+` t`).Scan(&sum)
		if err != nil {
			return "", fmt.Errorf("read %s: %w", t, err)
		}
		fmt.Fprintf(&all, "%s %s\n", t, sum)
	}
	return all.String(), nil
}

// holds returns an error if the contents of a target are not those wanted.
func holds(ctx context.Context, by, target, want string) error {
	have, err := contents(ctx, target)
	if err == nil && have != want {
		err = errors.New("the target is not what the source is")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", by, err)
	}
	return nil
}

// tablesOf lists the tables that have rows of their own, quoted.
func tablesOf(ctx context.Context, dsn string) ([]string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema', 'walferry', 'bucardo') order by 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// program finds one of PostgreSQL's client programs, beside pg_dump or on PATH.
func (b *bench) program(name string) string {
	if path := filepath.Join(b.programs, name); exists(path) {
		return path
	}
	return name
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// command runs a client program; its output is shown when it fails.
func (b *bench) command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, b.program(name), args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// dumpTo copies a database with pg_dump and psql.
func (b *bench) dumpTo(ctx context.Context, source, target string, options ...string) error {
	dump := exec.CommandContext(ctx, b.program("pg_dump"), append(options, "--no-publications", "--no-subscriptions", source)...)
	restore := exec.CommandContext(ctx, b.program("psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", target)
	return pipe(dump, restore)
}

// pipe runs two programs, the second of which reads what the first writes.
func pipe(out, in *exec.Cmd) error {
	var complaints bytes.Buffer
	out.Stderr, in.Stderr = &complaints, &complaints
	pipe, err := out.StdoutPipe()
	if err != nil {
		return err
	}
	in.Stdin = pipe
	if err := in.Start(); err != nil {
		return err
	}
	err = out.Run()
	if e := in.Wait(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, complaints.String())
	}
	return nil
}
