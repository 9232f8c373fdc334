package schema

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Index is an index of a table, or a constraint with an index: a primary key, unique or exclusion
// constraint.
type Index struct {
	Table catalog.Name
	Name  string

	dump  *Dump
	entry *entry
}

// Indexes lists the indexes of a table, those of its constraints first. Each can be built on its
// own once the table has its rows; several of one table at the same time, except that constraints
// wait for each other.
func (d *Dump) Indexes(table catalog.Name) []Index {
	return d.indexes[table.String()]
}

// isIndex reports whether an entry creates an index.
func isIndex(e *entry) bool { return e.kind == "INDEX" || e.kind == "CONSTRAINT" }

// index sorts the indexes of the dump by table.
func (d *Dump) index() {
	d.indexes = map[string][]Index{}
	for _, kind := range []string{"CONSTRAINT", "INDEX"} {
		for _, e := range d.entries {
			if table, name, _, ok := e.target(); ok && e.kind == kind {
				at := table.String()
				d.indexes[at] = append(d.indexes[at], Index{Table: table, Name: name, dump: d, entry: e})
			}
		}
	}
}

// Constraint reports whether it is a constraint's. Adding one locks everybody out of the table,
// including whoever builds another index.
func (x Index) Constraint() bool { return x.entry.kind == "CONSTRAINT" }

// Build builds indexes one after the other. Those that are present are left alone; an invalid one,
// left by somebody's CREATE INDEX CONCURRENTLY, is dropped first. Its error is an *ObjectError.
func Build(ctx context.Context, conn *pgx.Conn, present Present, indexes ...Index) error {
	for _, x := range indexes {
		if err := x.build(ctx, conn, present); err != nil {
			return err
		}
	}
	return nil
}

func (x Index) build(ctx context.Context, conn *pgx.Conn, found Present) error {
	sql := x.entry.sql
	if s, ok := found[x.entry.key()]; ok {
		if s.ok || x.entry.kind != "INDEX" {
			return nil
		}
		sql = "drop index " + catalog.Name{Schema: x.entry.namespace, Name: x.Name}.String() + ";\n" + sql
	}
	if err := x.dump.do(ctx, conn, sql); err != nil && !present(err) {
		return objectError(x.entry, x.entry.sql, err)
	}
	return nil
}

// Tune lets a session build indexes with what the server can spare when jobs sessions do so at the
// same time: together they use as much memory as shared_buffers, which is a quarter of the
// machine's on RDS and in the manual's advice, and all of max_parallel_workers. It never sets less
// than the server's own settings, nor parallel workers where they are switched off.
func Tune(ctx context.Context, conn *pgx.Conn, jobs int) error {
	var buffersKB, memoryKB, workers, parallel int64
	err := conn.QueryRow(ctx, `
select (select setting::int8 * 8 from pg_catalog.pg_settings where name = 'shared_buffers'),
       (select setting::int8 from pg_catalog.pg_settings where name = 'maintenance_work_mem'),
       coalesce((select setting::int8 from pg_catalog.pg_settings where name = 'max_parallel_maintenance_workers'), 0),
       least((select setting::int8 from pg_catalog.pg_settings where name = 'max_parallel_workers'),
             (select setting::int8 from pg_catalog.pg_settings where name = 'max_worker_processes'))`).
		Scan(&buffersKB, &memoryKB, &workers, &parallel)
	if err != nil {
		return fmt.Errorf("read memory settings: %w", err)
	}
	share := int64(max(jobs, 1))
	// Sorts gain little from more than 2 GB, and version 17 and older on Windows cannot have more.
	memory := max(memoryKB, min(buffersKB/share, 2<<20-1))
	sql := []string{"set maintenance_work_mem = " + strconv.FormatInt(memory, 10)}
	if workers > 0 { // version 11 and newer
		sql = append(sql, "set max_parallel_maintenance_workers = "+strconv.FormatInt(max(workers, min(parallel/share, 8)), 10))
	}
	if err := execute(ctx, conn, strings.Join(sql, ";")); err != nil {
		return fmt.Errorf("set memory for indexes: %w", err)
	}
	return nil
}

// attach attaches the indexes of partitions to that of their parent, which becomes valid with the
// last one. The error joins the *ObjectErrors of what failed.
func (d *Dump) attach(ctx context.Context, conn *pgx.Conn) error {
	var failed []error
	for _, e := range d.entries {
		if e.kind != "INDEX ATTACH" {
			continue
		}
		var done bool
		err := conn.QueryRow(ctx, `
select coalesce((select h.inhparent is not null from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_inherits h on h.inhrelid = c.oid where n.nspname = $1 and c.relname = $2 and c.relkind in ('i', 'I')), false)`,
			e.namespace, e.tag).Scan(&done)
		if err != nil {
			return fmt.Errorf("look for %s: %w", e, err)
		}
		if done {
			continue
		}
		if err := d.do(ctx, conn, e.sql); err != nil {
			failed = append(failed, objectError(e, e.sql, err))
			if conn.IsClosed() {
				break
			}
		}
	}
	return errors.Join(failed...)
}

// remaining builds the indexes that nobody has asked for yet: those of partitioned tables, and of
// whatever else has no rows of its own to copy. The error joins the *ObjectErrors of what failed.
func (d *Dump) remaining(ctx context.Context, conn *pgx.Conn) error {
	present, err := LoadPresent(ctx, conn)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range d.entries {
		table, name, _, ok := e.target()
		if !ok || !isIndex(e) || d.stage(e) == ofMatview {
			continue
		}
		if err := (Index{Table: table, Name: name, dump: d, entry: e}).build(ctx, conn, present); err != nil {
			failed = append(failed, err)
			if conn.IsClosed() {
				break
			}
		}
	}
	return errors.Join(failed...)
}
