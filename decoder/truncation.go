package decoder

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/session"
)

// TruncationTable is the table that CreateTruncationTriggers makes: what goes into
// the publication and into Config.Truncations.
const TruncationTable = "walferry.truncation"

// The function runs as its owner, so that whoever may truncate a table needs no
// right on ours; that is why its search_path is pinned and nobody else may attach
// it to a table.
const createTruncation = `
create schema if not exists walferry;
create table if not exists walferry.truncation (
    id          bigserial primary key,
    schema_name text not null,
    table_name  text not null,
    at          timestamptz not null default pg_catalog.clock_timestamp()
);
create or replace function walferry.truncation() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into walferry.truncation (schema_name, table_name) values (tg_table_schema, tg_table_name);
    return null;
end $$;
revoke all on function walferry.truncation() from public;
`

const createTruncationTrigger = `
drop trigger if exists walferry_truncation on %[1]s;
create trigger walferry_truncation before truncate on %[1]s for each statement execute procedure walferry.truncation();
alter table %[1]s enable always trigger walferry_truncation;
`

// CreateTruncationTriggers makes TRUNCATE visible on a source of version 10, which
// does not decode it: a trigger on each table writes a row to TruncationTable, in
// the same transaction. That table must be in the publication, so this comes before
// CreatePublication. All of it is one transaction; run again, it adds tables.
//
// It takes a SHARE ROW EXCLUSIVE lock on each table: set lock_timeout before. The
// role must own the tables or have the TRIGGER right on them, and own them for
// ALTER TABLE. Newer versions decode TRUNCATE and are refused, for it would be
// applied twice.
func CreateTruncationTriggers(ctx context.Context, conn *pgx.Conn, tables []pgx.Identifier) error {
	if major := session.Major(conn.PgConn()); major != 10 {
		return fmt.Errorf("create triggers on truncate: PostgreSQL %d decodes it and needs none", major)
	}
	var sql strings.Builder
	sql.WriteString("set local client_min_messages = warning;" + createTruncation)
	for _, table := range tables {
		fmt.Fprintf(&sql, createTruncationTrigger, table.Sanitize())
	}
	if _, err := conn.PgConn().Exec(ctx, sql.String()).ReadAll(); err != nil {
		return fmt.Errorf("create triggers on truncate: %w", err)
	}
	return nil
}

// DropTruncationTriggers removes what CreateTruncationTriggers made, except the
// schema. That there is nothing is fine.
func DropTruncationTriggers(ctx context.Context, conn *pgx.Conn) error {
	const sql = `
set local client_min_messages = warning;
drop function if exists walferry.truncation() cascade;
drop table if exists walferry.truncation`
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("drop triggers on truncate: %w", err)
	}
	return nil
}
