package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
)

// What a run has finished is in copy_state, a row for every piece, written by the
// transaction that wrote the piece. How it had cut the tables is in copy_plan: pages
// and samples look different later, the pieces must not.
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
    finished_at   timestamptz,                 -- when the run that copied it had ended
    primary key (migration, schema_name, table_name)
)`

// stateExists spares a role that may not create schemas the attempt.
const stateExists = `select to_regclass('walferry.copy_state') is not null and to_regclass('walferry.copy_plan') is not null`

const selectPlan = `
select schema_name, table_name, as_of::text, bytes, bounds from walferry.copy_plan where migration = $1`

const selectState = `
select schema_name, table_name, piece, as_of::text, rows, bytes from walferry.copy_state where migration = $1`

const insertPlan = `
insert into walferry.copy_plan (migration, schema_name, table_name, target_schema, target_name, as_of, bytes, bounds)
values ($1, $2, $3, $4, $5, $6::text::pg_lsn, $7, $8)`

// The row comes first in the piece's transaction: should the outcome of an
// earlier attempt be unknown, this waits for it and then sees it.
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
	bytes  int64
	bounds []string
}

type finished struct{ rows, bytes int64 }

// state is what earlier runs under the same snapshot have left.
type state struct {
	plan   map[[2]string]planned
	pieces map[[2]string]map[int]finished
}

func openState(ctx context.Context, conn *pgx.Conn, migration string, asOf pglogrepl.LSN) (state, error) {
	s := state{plan: map[[2]string]planned{}, pieces: map[[2]string]map[int]finished{}}
	var exists bool
	if err := conn.QueryRow(ctx, stateExists).Scan(&exists); err != nil {
		return s, fmt.Errorf("look for the state of the copy: %w", err)
	}
	if !exists {
		if _, err := conn.PgConn().Exec(ctx, createState).ReadAll(); err != nil {
			return s, fmt.Errorf("create the tables for the state of the copy: %w", err)
		}
	}

	var key [2]string
	var lsn string
	sameSnapshot := func() error {
		found, err := pglogrepl.ParseLSN(lsn)
		if err != nil {
			return err
		}
		if found != asOf {
			return &StateError{Migration: migration, Found: found, Want: asOf}
		}
		return nil
	}
	var p planned
	rows, err := conn.Query(ctx, selectPlan, migration)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&key[0], &key[1], &lsn, &p.bytes, &p.bounds}, func() error {
			s.plan[key] = planned{bytes: p.bytes, bounds: slices.Clone(p.bounds)}
			return sameSnapshot()
		})
	}
	if err != nil {
		return s, fmt.Errorf("read the plan of the copy: %w", err)
	}
	var piece int
	var f finished
	rows, err = conn.Query(ctx, selectState, migration)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&key[0], &key[1], &piece, &lsn, &f.rows, &f.bytes}, func() error {
			if s.pieces[key] == nil {
				s.pieces[key] = map[int]finished{}
			}
			s.pieces[key][piece] = f
			return sameSnapshot()
		})
	}
	if err != nil {
		return s, fmt.Errorf("read the state of the copy: %w", err)
	}
	return s, nil
}

// Reset forgets the copy of a migration and empties, of the given tables, those that the
// copy had begun with on the target of conn: both or, on an error, neither. A table that the copy has
// never been told to fill is not touched.
func Reset(ctx context.Context, conn *pgx.Conn, migration string, tables []Table) error {
	var exists bool
	if err := conn.QueryRow(ctx, stateExists).Scan(&exists); err != nil {
		return fmt.Errorf("look for the state of the copy: %w", err)
	}
	if !exists {
		return nil
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
select p.schema_name, p.table_name, n.nspname::text, c.relname::text, c.relkind = 'p'
  from walferry.copy_plan p
  join pg_namespace n on n.nspname = p.target_schema
  join pg_class c on c.relnamespace = n.oid and c.relname = p.target_name and c.relkind in ('r', 'p')
 where p.migration = $1`, migration)
		if err != nil {
			return err
		}
		var key, target [2]string
		var partitioned bool
		var names []string
		_, err = pgx.ForEachRow(rows, []any{&key[0], &key[1], &target[0], &target[1], &partitioned}, func() error {
			if !slices.ContainsFunc(tables, func(t Table) bool { return t.Schema == key[0] && t.Name == key[1] }) {
				return nil
			}
			name := "only " + catalog.Name(target[0], target[1])
			if partitioned {
				name = catalog.Name(target[0], target[1])
			}
			names = append(names, name)
			return nil
		})
		if err != nil {
			return err
		}
		// One statement: tables that refer to each other can only be emptied together.
		if len(names) > 0 {
			if _, err := tx.Exec(ctx, "truncate table "+strings.Join(names, ", ")); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `delete from walferry.copy_state where migration = $1`, migration); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `delete from walferry.copy_plan where migration = $1`, migration)
		return err
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
