package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// copy runs a workload: the source's database once, and for each run an empty target. The time is
// that from the start until the changes are followed, indexes included.
func (b *bench) copy(ctx context.Context, w copyWorkload) ([]*result, error) {
	say("%s: %s", w.id, w.what)
	source, err := b.fresh(ctx, b.source, "source", "")
	if err != nil {
		return nil, err
	}
	if err := w.setup(ctx, b, source); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if err := execute(ctx, source, `vacuum analyze`, `checkpoint`); err != nil {
		return nil, err
	}
	want, err := contents(ctx, source)
	if err != nil {
		return nil, err
	}
	peers := b.copyPeers()
	targets := 0
	defer func() {
		for n := range targets {
			execute(context.WithoutCancel(ctx), b.target.URL("postgres"), `drop database if exists `+targetName(w, n)+` with (force)`) //nolint:errcheck // the server is thrown away
		}
	}()
	once := func(copy side) (run, error) {
		target, err := b.fresh(ctx, b.target, targetName(w, targets), "")
		if err != nil {
			return run{}, err
		}
		targets++
		_, sender := cpuOf(b.source.PID())
		_, backend := cpuOf(b.target.PID())
		got, err := copy(ctx, source, target)
		if err != nil {
			return got, err
		}
		time.Sleep(200 * time.Millisecond) // for the last sessions to end
		_, got.sender.cpu = cpuOf(b.source.PID())
		_, got.backend.cpu = cpuOf(b.target.PID())
		got.sender.cpu -= sender
		got.backend.cpu -= backend
		return got, holds(ctx, got.by, target, want)
	}
	say("  the first run, which does not count:") // see stream
	if _, err := once(b.copyPsql); err != nil {
		return nil, fmt.Errorf("psql pipes: %w", err)
	}
	var results []*result
	for _, p := range peers {
		results = append(results, &result{id: w.id, what: w.what, goal: w.goal, unit: w.unit, count: w.count(b), peer: p.name})
	}
	for i := range b.pairs {
		for k, p := range peers {
			r := results[k]
			if r.failed != nil {
				continue
			}
			runs := []struct {
				copy side
				to   *[]run
			}{{b.copyWalferry, &r.ours}, {p.copy, &r.theirs}}
			if i%2 == 1 {
				runs[0], runs[1] = runs[1], runs[0]
			}
			for _, one := range runs {
				got, err := once(one.copy)
				if err != nil && one.to == &r.theirs && ctx.Err() == nil {
					say("  %s failed and is left out: %v", p.name, err)
					r.failed = err
					break
				}
				if err != nil {
					return nil, err
				}
				*one.to = append(*one.to, got)
				got.say()
			}
		}
	}
	return results, nil
}

// copyPeers are what the copy is compared with.
func (b *bench) copyPeers() []peer {
	peers := []peer{{"native", b.copyNative}, {"psql pipes", b.copyPsql}}
	if path, err := exec.LookPath("pgcopydb"); err == nil {
		peers = append(peers, peer{"pgcopydb", func(ctx context.Context, source, target string) (run, error) {
			return b.copyProgram(ctx, "pgcopydb", source, target, path, "clone", "--source", source, "--target", target,
				"--table-jobs", "4", "--index-jobs", "4", "--split-tables-larger-than", "200MB", "--no-acl", "--no-owner", "--restart", "--not-consistent")
		}})
	}
	return peers
}

// targetName is the database of a copy's n-th run. A file system may look long for a place among
// thousands of files that were just deleted (ext4 does for five minutes), so that each run of such
// a workload has a database of its own.
func targetName(w copyWorkload, n int) string {
	if w.files {
		return fmt.Sprintf("target_%d", n)
	}
	return "target"
}

// peer is what walferry is compared with.
type peer struct {
	name string
	copy side
}

// copyWalferry runs the whole of migrate until it has caught up, check and schema included.
func (b *bench) copyWalferry(ctx context.Context, source, target string) (run, error) {
	r, err := b.copyProgram(ctx, "walferry", source, target, b.walferry, "migrate", "--until", "caught-up", "--jobs", "4")
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, b.walferry, "abort")
	cmd.Env = append(os.Environ(), "WALFERRY_SOURCE="+source, "WALFERRY_TARGET="+target)
	if out, err := cmd.CombinedOutput(); err != nil {
		return r, fmt.Errorf("walferry abort: %w\n%s", err, out)
	}
	return r, nil
}

// copyProgram runs a program with the addresses where walferry looks for them.
func (b *bench) copyProgram(ctx context.Context, by, source, target, name string, args ...string) (run, error) {
	return b.runProgram(ctx, by, []string{"WALFERRY_SOURCE=" + source, "WALFERRY_TARGET=" + target}, name, args...)
}

// runProgram runs a program to its end.
func (b *bench) runProgram(ctx context.Context, by string, env []string, name string, args ...string) (run, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	r := run{by: by, took: time.Since(begun)}
	if err != nil {
		return r, fmt.Errorf("%s: %w\n%s", by, err, out)
	}
	r.tool = usageAfter(cmd)
	return r, nil
}

// copyNative takes the schema with pg_dump, as its users must, and then a subscription's initial
// copy, which needs the indexes to be there.
func (b *bench) copyNative(ctx context.Context, source, target string) (r run, err error) {
	r.by = "native"
	begun := time.Now()
	if err := execute(ctx, source, `drop publication if exists bench_copy`, `create publication bench_copy for all tables`); err != nil {
		return r, err
	}
	if err := b.dumpTo(ctx, source, target, "--schema-only"); err != nil {
		return r, err
	}
	if err := execute(ctx, target, `create subscription bench connection `+catalog.Literal(source)+` publication bench_copy with (binary = true)`); err != nil {
		return r, err
	}
	conn, err := pgx.Connect(ctx, target)
	if err != nil {
		return r, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var left int
		if err := conn.QueryRow(ctx, `select count(*) from pg_subscription_rel where srsubstate <> 'r'`).Scan(&left); err != nil {
			return r, err
		}
		if left == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	r.took = time.Since(begun)
	err = execute(ctx, target, `drop subscription bench`)
	return r, errors.Join(err, execute(ctx, source, `drop publication bench_copy`))
}

// copyPsql is the naive floor: a pipe from psql to psql for each table, one after the other,
// between the two halves of the schema.
func (b *bench) copyPsql(ctx context.Context, source, target string) (r run, err error) {
	r.by = "psql pipes"
	begun := time.Now()
	if err := b.dumpTo(ctx, source, target, "--section=pre-data"); err != nil {
		return r, err
	}
	tables, err := tablesOf(ctx, source)
	if err != nil {
		return r, err
	}
	for _, table := range tables {
		columns, err := copiedColumns(ctx, source, table)
		if err != nil {
			return r, err
		}
		if columns == "" {
			continue
		}
		out := exec.CommandContext(ctx, b.program("psql"), "-qX", "-c", `copy (select `+columns+` from only `+table+`) to stdout (format binary)`, source)
		in := exec.CommandContext(ctx, b.program("psql"), "-qX", "-c", `copy `+table+` (`+columns+`) from stdin (format binary)`, target)
		if err := pipe(out, in); err != nil {
			return r, fmt.Errorf("%s: %w", table, err)
		}
	}
	err = b.dumpTo(ctx, source, target, "--section=post-data")
	r.took = time.Since(begun)
	return r, err
}

// copiedColumns are those of a table that COPY takes, quoted.
func copiedColumns(ctx context.Context, dsn, table string) (columns string, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, `select coalesce(string_agg(quote_ident(attname), ', ' order by attnum), '') from pg_attribute
 where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attgenerated = ''`, table).Scan(&columns)
	return columns, err
}
