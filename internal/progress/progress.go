// Package progress makes the table of positions on a target, and the rows in it: one for each
// stream, which the applier moves in every transaction.
package progress

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
)

// Table is the table of positions.
const Table = "walferry.progress"

// TableSQL makes that table.
const TableSQL = `
create table if not exists walferry.progress (
    stream        text primary key,            -- the migration's name
    applied       pg_lsn not null,             -- every source transaction whose commit record starts before it is here
    commit_time   timestamptz,                 -- of the last one, by the source's clock
    transactions  bigint not null default 0,   -- applied so far, empty ones not counted
    changes       bigint not null default 0,   -- rows and truncates in them
    applied_at    timestamptz not null default clock_timestamp()
) with (fillfactor = 10)`

const insert = `
insert into walferry.progress (stream, applied) values ($1, '0/0') on conflict do nothing`

const set = `
update walferry.progress
   set applied = $2::text::pg_lsn, commit_time = null, transactions = 0, changes = 0, applied_at = clock_timestamp()
 where stream = $1`

// Ensure creates the table and the stream's row, at position 0. If they exist it needs no privilege
// to create anything.
func Ensure(ctx context.Context, conn *pgx.Conn, stream string) error {
	for attempt := 0; ; attempt++ {
		err := createTable(ctx, conn)
		// IF NOT EXISTS does not keep two sessions from creating the same thing at once.
		if attempt < 3 && slices.Contains([]string{catalog.UniqueViolation, catalog.DuplicateTable, catalog.DuplicateSchema}, catalog.State(err)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("create walferry.progress: %w", err)
		}
		break
	}
	if _, err := conn.Exec(ctx, insert, pgx.QueryExecModeExec, stream); err != nil {
		return fmt.Errorf("create progress of stream %q: %w", stream, err)
	}
	return nil
}

func createTable(ctx context.Context, conn *pgx.Conn) error {
	var table, schema bool
	err := conn.QueryRow(ctx, `
select to_regclass('walferry.progress') is not null, to_regnamespace('walferry') is not null`, pgx.QueryExecModeExec).Scan(&table, &schema)
	if err != nil {
		return err
	}
	sql := ""
	if !table {
		sql = TableSQL
	}
	if !schema {
		sql = `create schema walferry;` + sql
	}
	return catalog.Own(ctx, conn, sql)
}

// Set sets the position of a stream, whatever it was: the target's tables have been emptied and are
// being filled from a snapshot of the source at that position. Nothing guards it: moving a stream
// whose target has changes loses them. An Applier that was made before finds its row moved, and
// stops.
func Set(ctx context.Context, conn *pgx.Conn, stream string, at decoder.LSN) error {
	if err := Ensure(ctx, conn, stream); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, set, pgx.QueryExecModeExec, stream, at.String()); err != nil {
		return fmt.Errorf("set progress of stream %q to %s: %w", stream, at, err)
	}
	return nil
}
