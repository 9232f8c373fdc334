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
    began_at      timestamptz default clock_timestamp(),
    worker        text not null default '',    -- who copied it, if another process than that of the copy
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
    indexes_ms    bigint,                      -- that building its indexes took, all sessions together
    analyze_ms    bigint,
    mixed_by      text[],                      -- quoted columns of the key, if it gets rows of several snapshots
    finished_at   timestamptz,                 -- when the run that copied it had ended
    primary key (migration, schema_name, table_name)
);
alter table walferry.copy_plan add column if not exists filenode text not null default '';
alter table walferry.copy_plan add column if not exists converge_until pg_lsn;
alter table walferry.copy_plan add column if not exists mixed_by text[];
alter table walferry.copy_plan add column if not exists indexes_ms bigint;
alter table walferry.copy_plan add column if not exists analyze_ms bigint;
alter table walferry.copy_state add column if not exists began_at timestamptz;
alter table walferry.copy_state alter column began_at set default clock_timestamp();
alter table walferry.copy_state add column if not exists worker text not null default '';
create index if not exists copy_state_worker on walferry.copy_state (migration) where worker <> '';` + createQueue

// stateExists saves a role that may not create schemas the attempt.
const stateExists = `
select to_regclass('walferry.copy_piece') is not null
   and exists (select from pg_attribute where attrelid = to_regclass('walferry.copy_plan') and attname = 'analyze_ms')`

// stateExisted is it for an older version's, too.
const stateExisted = `select to_regclass('walferry.copy_state') is not null and to_regclass('walferry.copy_plan') is not null`

const selectPlan = `
select schema_name, table_name, as_of::text, bytes, bounds, filenode, target_schema, target_name, mixed_by from walferry.copy_plan where migration = $1`

const selectState = `
select schema_name, table_name, piece, as_of::text, rows, bytes from walferry.copy_state where migration = $1`

const insertPlan = `
insert into walferry.copy_plan (migration, schema_name, table_name, target_schema, target_name, as_of, bytes, bounds, filenode)
values ($1, $2, $3, $4, $5, $6::text::pg_lsn, $7, $8, $9)`

const finishPiece = `
update walferry.copy_state set rows = $5, bytes = $6, finished_at = clock_timestamp()
 where migration = $1 and schema_name = $2 and table_name = $3 and piece = $4`

const finishPlan = `
update walferry.copy_plan set finished_at = clock_timestamp() where migration = $1 and finished_at is null`

type planned struct {
	asOf     decoder.LSN
	bytes    int64
	bounds   []string
	filenode string

	schema, name string // on the target
	mixedBy      []string
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
	s := state{plan: map[catalog.Name]planned{}}
	var key catalog.Name
	var p planned
	rows, err := conn.Query(ctx, selectPlan, migration)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&key.Schema, &key.Name, &p.asOf, &p.bytes, &p.bounds, &p.filenode, &p.schema, &p.name, &p.mixedBy}, func() error {
			one := p
			one.bounds, one.mixedBy = slices.Clone(p.bounds), slices.Clone(p.mixedBy)
			s.plan[key] = one
			if asOf != 0 && p.asOf != asOf {
				return &StateError{Migration: migration, Found: p.asOf, Want: asOf}
			}
			return nil
		})
	}
	if err != nil {
		return s, fmt.Errorf("read the plan of the copy: %w", err)
	}
	s.pieces, err = readPieces(ctx, conn, selectState, migration, asOf)
	return s, err
}

// readPieces reads what is recorded of pieces. One of a snapshot that is not as of asOf is an error, unless asOf is zero.
func readPieces(ctx context.Context, conn *pgx.Conn, sql, migration string, asOf decoder.LSN) (map[catalog.Name]map[int]finished, error) {
	all := map[catalog.Name]map[int]finished{}
	var key catalog.Name
	var piece int
	var f finished
	rows, err := conn.Query(ctx, sql, migration)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&key.Schema, &key.Name, &piece, &f.asOf, &f.rows, &f.bytes}, func() error {
			if asOf != 0 && f.asOf != asOf {
				return &StateError{Migration: migration, Found: f.asOf, Want: asOf}
			}
			if all[key] == nil {
				all[key] = map[int]finished{}
			}
			all[key][piece] = f
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of the copy: %w", err)
	}
	return all, nil
}

// Reset deletes the state of a migration's copy and empties those of the given tables that the copy
// had planned, on the target of conn: both or, on an error, neither. Other tables are not touched.
func Reset(ctx context.Context, conn *pgx.Conn, migration string, tables []Table) error {
	var exists bool
	if err := conn.QueryRow(ctx, stateExisted).Scan(&exists); err != nil {
		return fmt.Errorf("look for the state of the copy: %w", err)
	}
	if !exists {
		return nil
	}
	if err := Prepare(ctx, conn); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := withdraw(ctx, tx, migration); err != nil {
			return err
		}
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
