package snapshot

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
)

// copy_state has what runs have finished, a row for every piece, written by the transaction that
// wrote the piece. copy_plan has how the tables were cut: pages and samples change later, the
// pieces must not.
const createState = `
create schema if not exists walferry;
create table if not exists walferry.copy_state (
    migration     text not null,
    schema_name   text not null,
    table_name    text not null,
    piece         int  not null,
    pieces        int  not null,
    bounds        text not null default '',
    as_of         pg_lsn not null,
    rows          bigint not null,
    bytes         bigint not null,
    finished_at   timestamptz not null default clock_timestamp(),
    primary key (migration, schema_name, table_name, piece)
);
create table if not exists walferry.copy_plan (
    migration     text not null,
    schema_name   text not null,               -- the table as named on the source
    table_name    text not null,
    target_schema text not null,
    target_name   text not null,
    as_of         pg_lsn not null,
    bytes         bigint not null,             -- size on the source, TOAST included
    bounds        text[] not null,             -- the predicate of each piece; empty text: the whole table
    filenode      text not null default '',    -- where the source stores the rows
    converge_until pg_lsn,                     -- rows were read from the source as late as this; see decoder.Window
    finished_at   timestamptz,                 -- when the run that copied it had ended
    primary key (migration, schema_name, table_name)
);
alter table walferry.copy_plan add column if not exists filenode text not null default '';
alter table walferry.copy_plan add column if not exists converge_until pg_lsn`

// stateExists saves a role that may not create schemas the attempt.
const stateExists = `
select to_regclass('walferry.copy_state') is not null
   and exists (select from pg_attribute where attrelid = to_regclass('walferry.copy_plan') and attname = 'converge_until')`

const selectPlan = `
select schema_name, table_name, as_of::text, bytes, bounds, filenode from walferry.copy_plan where migration = $1`

const selectState = `
select schema_name, table_name, piece, as_of::text, rows, bytes from walferry.copy_state where migration = $1`

const insertPlan = `
insert into walferry.copy_plan (migration, schema_name, table_name, target_schema, target_name, as_of, bytes, bounds, filenode)
values ($1, $2, $3, $4, $5, $6::text::pg_lsn, $7, $8, $9)`

// The row is inserted first in the piece's transaction: if the outcome of an earlier attempt is
// unknown, this waits for it and then sees it.
const claimPiece = `
insert into walferry.copy_state (migration, schema_name, table_name, piece, pieces, bounds, as_of, rows, bytes)
values ($1, $2, $3, $4, $5, $6, $7::text::pg_lsn, 0, 0) on conflict do nothing`

const finishPiece = `
update walferry.copy_state set rows = $5, bytes = $6, finished_at = clock_timestamp()
 where migration = $1 and schema_name = $2 and table_name = $3 and piece = $4`

const selectPiece = `
select rows, bytes from walferry.copy_state
 where migration = $1 and schema_name = $2 and table_name = $3 and piece = $4`

const finishPlan = `
update walferry.copy_plan set finished_at = clock_timestamp() where migration = $1 and finished_at is null`

type planned struct {
	asOf     decoder.LSN
	bytes    int64
	bounds   []string
	filenode string
}

type finished struct {
	asOf        decoder.LSN
	rows, bytes int64
}

// state is what earlier runs have recorded.
type state struct {
	plan   map[catalog.Name]planned
	pieces map[catalog.Name]map[int]finished
}

// Prepare creates the tables on the target in which the state of copies is kept, if they do not
// exist. Run does so, too.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	var exists bool
	if err := conn.QueryRow(ctx, stateExists).Scan(&exists); err != nil {
		return fmt.Errorf("look for the state of the copy: %w", err)
	}
	sql := ""
	if !exists {
		sql = createState
	}
	if err := catalog.Own(ctx, conn, sql); err != nil {
		return fmt.Errorf("create the tables for the state of the copy: %w", err)
	}
	return nil
}

// openState reads the state. A row of a snapshot that is not as of asOf is an error, unless asOf is
// zero.
func openState(ctx context.Context, conn *pgx.Conn, migration string, asOf decoder.LSN) (state, error) {
	s := state{plan: map[catalog.Name]planned{}, pieces: map[catalog.Name]map[int]finished{}}
	if err := Prepare(ctx, conn); err != nil {
		return s, err
	}

	var key catalog.Name
	expected := func(found decoder.LSN) error {
		if asOf != 0 && found != asOf {
			return &StateError{Migration: migration, Found: found, Want: asOf}
		}
		return nil
	}
	var p planned
	rows, err := conn.Query(ctx, selectPlan, migration)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&key.Schema, &key.Name, &p.asOf, &p.bytes, &p.bounds, &p.filenode}, func() error {
			one := p
			one.bounds = slices.Clone(p.bounds)
			s.plan[key] = one
			return expected(p.asOf)
		})
	}
	if err != nil {
		return s, fmt.Errorf("read the plan of the copy: %w", err)
	}
	var piece int
	var f finished
	rows, err = conn.Query(ctx, selectState, migration)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&key.Schema, &key.Name, &piece, &f.asOf, &f.rows, &f.bytes}, func() error {
			if s.pieces[key] == nil {
				s.pieces[key] = map[int]finished{}
			}
			s.pieces[key][piece] = f
			return expected(f.asOf)
		})
	}
	if err != nil {
		return s, fmt.Errorf("read the state of the copy: %w", err)
	}
	return s, nil
}

// Reset deletes the state of a migration's copy and empties those of the given tables that the copy
// had planned, on the target of conn: both or, on an error, neither. Other tables are not touched.
func Reset(ctx context.Context, conn *pgx.Conn, migration string, tables []Table) error {
	var exists bool
	if err := conn.QueryRow(ctx, stateExists).Scan(&exists); err != nil {
		return fmt.Errorf("look for the state of the copy: %w", err)
	}
	if !exists {
		return nil
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := empty(ctx, tx, migration, tables); err != nil {
			return err
		}
		for _, table := range []string{"copy_state", "copy_plan"} {
			if _, err := tx.Exec(ctx, `delete from walferry.`+table+` where migration = $1`, migration); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reset the copy of migration %s: %w", migration, err)
	}
	return nil
}

// execBatch runs statements in one round trip and returns their tags.
func execBatch(ctx context.Context, conn *pgx.Conn, batch *pgx.Batch) ([]pgconn.CommandTag, error) {
	results := conn.SendBatch(ctx, batch)
	var tags []pgconn.CommandTag
	for range batch.Len() {
		tag, err := results.Exec()
		if err != nil {
			results.Close()
			return nil, err
		}
		tags = append(tags, tag)
	}
	return tags, results.Close()
}
