package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// LateKeys are foreign keys that are created in two steps: Add looks at no row, so that it takes
// the same time whatever the tables hold, and holds for what is written from then on; Later looks
// at what was there, while others write.
type LateKeys struct {
	Add   []string
	Later []Validation

	setup   string
	entries []*entry // of Add
}

// Validation is a statement of the second step.
type Validation struct {
	Table string `json:"table"` // two of one table would wait for each other
	SQL   string `json:"sql"`
	// Whole: it comes after all that are not. It gives a partitioned table the foreign key that its partitions have, which must be
	// validated before: then it looks at no row either. Or it gives a key its comment.
	Whole bool `json:"whole,omitempty"`
}

// LateForeignKeys lists the foreign keys that the target lacks or has not validated. Missing
// indexes that they need are built first. Keys that are NOT VALID on the source stay so.
// Partitioned tables of version 11 can only look at the rows at once.
func (d *Dump) LateForeignKeys(ctx context.Context, conn *pgx.Conn) (*LateKeys, error) {
	if err := errors.Join(d.remaining(ctx, conn), d.attach(ctx, conn)); err != nil {
		return nil, err
	}
	major, err := catalog.Major(ctx, conn)
	if err != nil {
		return nil, err
	}
	found, err := LoadPresent(ctx, conn)
	if err != nil {
		return nil, err
	}
	late := &LateKeys{setup: d.setup}
	comments := d.comments()
	var last []Validation
	for _, e := range d.entries {
		if e.kind != "FK CONSTRAINT" {
			continue
		}
		table, name, only, known := e.target()
		if c := comments[e.id]; c != nil {
			last = append(last, Validation{Table: table.String(), SQL: strings.TrimSuffix(strings.TrimSpace(c.sql), ";"), Whole: true})
		}
		there, ok := found[e.key()]
		if ok {
			if unchecked(e, there) {
				late.Later = append(late.Later, validation(table, name))
			}
			continue
		}
		sql, later := withoutCheck(e)
		switch {
		case known && !only && major >= 18:
			if !loose(e) {
				sql, later = notValid(e), true
			}
		case known && !only && major >= 12:
			more, err := late.partitions(ctx, conn, e, table, name, found)
			if err != nil {
				return nil, err
			}
			if more {
				continue
			}
		}
		late.Add, late.entries = append(late.Add, sql), append(late.entries, e)
		if later {
			late.Later = append(late.Later, validation(table, name))
		}
	}
	late.Later = append(late.Later, last...)
	return late, nil
}

// comments returns the comments on foreign keys, by the id of those.
func (d *Dump) comments() map[int]*entry {
	of, keys := map[int]*entry{}, map[int]bool{}
	for _, e := range d.entries {
		keys[e.id] = keys[e.id] || e.kind == "FK CONSTRAINT"
	}
	for _, e := range d.entries {
		if e.kind == "COMMENT" && len(e.deps) == 1 && keys[e.deps[0]] {
			of[e.deps[0]] = e
		}
	}
	return of
}

func validation(table catalog.Name, name string) Validation {
	return Validation{Table: table.String(), SQL: fmt.Sprintf("alter table %s validate constraint %s", table.String(), catalog.Quote(name))}
}

// notValid is withoutCheck if the statement may not leave out partitions.
func notValid(e *entry) string {
	return strings.TrimSuffix(strings.TrimRight(e.sql, " \n"), ";") + " NOT VALID;\n"
}

// partitions gives each partition of a table the foreign key. The table's own, which then adopts
// theirs, comes last. It returns false if there are none.
func (l *LateKeys) partitions(ctx context.Context, conn *pgx.Conn, e *entry, table catalog.Name, name string, found Present) (bool, error) {
	leaves, err := leaves(ctx, conn, table)
	if err != nil {
		return false, err
	}
	clause := strings.Index(e.sql, "ADD CONSTRAINT ")
	if clause < 0 || strings.Contains(table.Schema+table.Name, "ADD CONSTRAINT ") {
		return false, nil
	}
	for _, leaf := range leaves {
		part := leaf
		s, ok := found[key{kind: "CONSTRAINT", namespace: leaf.Schema, table: leaf.Name, name: name}]
		if !ok {
			l.Add = append(l.Add, "alter table only "+part.String()+" "+notValid(&entry{sql: e.sql[clause:]}))
			l.entries = append(l.entries, e)
		}
		if !ok || !s.ok {
			l.Later = append(l.Later, validation(part, name))
		}
	}
	if len(leaves) > 0 {
		l.Later = append(l.Later, Validation{Table: table.String(), SQL: strings.TrimSpace(e.sql), Whole: true})
	}
	return len(leaves) > 0, nil
}

// leaves lists the partitions of a table that have rows, from version 12 on.
func leaves(ctx context.Context, conn *pgx.Conn, table catalog.Name) (found []catalog.Name, err error) {
	rows, err := conn.Query(ctx, `
select n.nspname::text, c.relname::text from pg_partition_tree($1::text::regclass) t join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace
 where t.isleaf and c.relkind = 'r' order by 1, 2`, table.String())
	if err == nil {
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[catalog.Name])
	}
	if err != nil {
		return nil, fmt.Errorf("list the partitions of %s: %w", table.String(), err)
	}
	return found, nil
}

// Create does the first step, in one transaction and one message. If it fails, with an *ObjectError
// if a statement did, none of them exists.
func (l *LateKeys) Create(ctx context.Context, conn *pgx.Conn) error {
	return l.run(ctx, conn, "commit")
}

// Rehearse does the first step and rolls it back.
func (l *LateKeys) Rehearse(ctx context.Context, conn *pgx.Conn) error {
	return l.run(ctx, conn, "rollback")
}

func (l *LateKeys) run(ctx context.Context, conn *pgx.Conn, end string) error {
	if len(l.Add) == 0 {
		return nil
	}
	if err := execute(ctx, conn, "begin;"+l.setup); err != nil {
		return fmt.Errorf("begin creating foreign keys: %w", err)
	}
	results, err := conn.PgConn().Exec(ctx, strings.Join(l.Add, "\n")+";"+end).ReadAll()
	if err == nil {
		return nil
	}
	if !conn.IsClosed() {
		err = errors.Join(err, execute(context.WithoutCancel(ctx), conn, "rollback"))
	}
	done := 0
	for _, r := range results {
		if r.Err == nil {
			done++
		}
	}
	if done < len(l.Add) {
		return objectError(l.entries[done], l.Add[done], err)
	}
	return fmt.Errorf("create foreign keys: %w", err)
}

// Validate does the second step, jobs statements at a time, none of which keeps anybody from
// writing for longer than a moment. done is called after each, with its error; for those of Whole
// once all others are done without one.
func Validate(ctx context.Context, targetDSN string, list []Validation, jobs int, done func(Validation, error)) error {
	var tables []string
	of := map[string][]Validation{}
	var whole []Validation
	for _, v := range list {
		if v.Whole {
			whole = append(whole, v)
			continue
		}
		if of[v.Table] == nil {
			tables = append(tables, v.Table)
		}
		of[v.Table] = append(of[v.Table], v)
	}
	queue := make(chan []Validation, len(tables))
	for _, name := range tables {
		queue <- of[name]
	}
	close(queue)
	workers := min(max(jobs, 1), max(len(tables), 1))
	failed := make([]bool, workers)
	var g errgroup.Group
	for i := range workers {
		g.Go(func() error {
			conn, err := online.Open(ctx, session.Config{DSN: targetDSN, Application: "foreign keys"})
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			if err := Tune(ctx, conn, workers); err != nil {
				return err
			}
			for table := range queue {
				for _, v := range table {
					err := execute(ctx, conn, v.SQL)
					if conn.IsClosed() {
						return err
					}
					failed[i] = failed[i] || err != nil
					done(v, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil || len(whole) == 0 {
		return err
	}
	for _, f := range failed {
		if f {
			return nil // it would look at all rows while nobody can write
		}
	}
	conn, err := online.Open(ctx, session.Config{DSN: targetDSN, Application: "foreign keys"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, v := range whole {
		err := wholeKey(ctx, conn, v)
		if conn.IsClosed() {
			return err
		}
		done(v, err)
	}
	return nil
}

// wholeKey takes its locks as others let it: nobody waits behind it for long.
func wholeKey(ctx context.Context, conn *pgx.Conn, v Validation) error {
	return wait.Again(ctx, wait.Pauses{First: 300 * time.Millisecond, Random: true}, func() error {
		err := execute(ctx, conn, "begin; set local search_path = ''; set local lock_timeout = '300ms'; "+v.SQL+"\n;commit")
		if err == nil || conn.IsClosed() {
			return err
		}
		if rollback := execute(context.WithoutCancel(ctx), conn, "rollback"); rollback != nil {
			return errors.Join(err, rollback)
		}
		if catalog.State(err) == catalog.DuplicateObject { // another run has done it
			return nil
		}
		return err
	}, catalog.LostLock, nil)
}
