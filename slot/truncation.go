package slot

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
)

// TruncationTable is the table that CreateTruncationTriggers creates: it goes into the publication
// and into Config.Truncations.
const TruncationTable = "walferry.truncation"

// TruncationTableSQL creates that table.
const TruncationTableSQL = `create table if not exists walferry.truncation (
    id          bigserial primary key,
    schema_name text not null,
    table_name  text not null,
    at          timestamptz not null default pg_catalog.clock_timestamp(),
    relid       oid
)`

// The function runs as its owner, so that whoever may truncate a table needs no right on ours; that
// is why its search_path is pinned and nobody else may attach it to a table.
const createTruncation = `
create schema if not exists walferry;
` + TruncationTableSQL + `;
do $$ begin -- a table that an older version has made for another migration
    if not exists (select from pg_catalog.pg_attribute where attrelid = 'walferry.truncation'::regclass and attname = 'relid' and not attisdropped) then
        alter table walferry.truncation add column relid oid;
    end if;
end $$;
create or replace function walferry.truncation() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into walferry.truncation (schema_name, table_name, relid) values (tg_table_schema, tg_table_name, tg_relid);
    return null;
end $$;
revoke all on function walferry.truncation() from public;
`

const createTruncationTrigger = `
create trigger walferry_truncation before truncate on %[1]s for each statement execute procedure walferry.truncation();
alter table %[1]s enable always trigger walferry_truncation;
`

// CreateTruncationTriggers makes TRUNCATE visible on a source of version 10, which does not decode
// it: a trigger on each table writes a row to TruncationTable, in the same transaction. That table
// must be in the publication, so this comes before CreatePublication. Each table has a transaction
// of its own; run again, it adds tables.
//
// It takes a SHARE ROW EXCLUSIVE lock on each table, one at a time, and tries until ctx ends. The
// role must own the tables or have the TRIGGER right on them, and own them for ALTER TABLE. Newer
// versions decode TRUNCATE and are refused: it would be applied twice.
func CreateTruncationTriggers(ctx context.Context, conn *pgx.Conn, tables []pgx.Identifier) error {
	if major := session.Major(conn.PgConn()); major != 10 {
		return fmt.Errorf("create triggers on truncate: PostgreSQL %d decodes it and needs none", major)
	}
	if err := online.Own(ctx, conn, createTruncation); err != nil {
		return fmt.Errorf("create triggers on truncate: %w", err)
	}
	for _, table := range tables {
		var there bool
		err := conn.QueryRow(ctx, `select exists(select from pg_trigger where tgrelid = $1::text::regclass and tgname = 'walferry_truncation' and tgenabled = 'A')`, table.Sanitize()).Scan(&there)
		if err == nil && !there {
			err = online.Run(ctx, conn, table.Sanitize(), fmt.Sprintf(createTruncationTrigger, table.Sanitize()))
		}
		if err != nil {
			return fmt.Errorf("create trigger on truncate of %s: %w", table.Sanitize(), err)
		}
	}
	return nil
}

// DropTruncationTriggers removes what CreateTruncationTriggers created, except the schema. It is
// not an error if there is nothing.
func DropTruncationTriggers(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
select n.nspname::text, c.relname::text
  from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where t.tgname = 'walferry_truncation'`)
	if err != nil {
		return fmt.Errorf("drop triggers on truncate: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[catalog.Name])
	if err != nil {
		return fmt.Errorf("drop triggers on truncate: %w", err)
	}
	for _, t := range tables {
		name := t.String()
		if err := online.Run(ctx, conn, name, `drop trigger if exists walferry_truncation on `+name); err != nil {
			return fmt.Errorf("drop the trigger on truncate of %s: %w", name, err)
		}
	}
	for _, sql := range []string{`drop function if exists walferry.truncation()`, `drop table if exists walferry.truncation`} {
		if err := online.Run(ctx, conn, "", sql); err != nil {
			return fmt.Errorf("drop triggers on truncate: %s: %w", sql, err)
		}
	}
	return nil
}
