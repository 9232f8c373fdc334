package cleanup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// fromTarget removes the migration's rows from its target, and the schema with the last migration.
// sharedOrigin means that the replication origin stays: another database's migration has the same.
func fromTarget(ctx context.Context, conn *pgx.Conn, name string) (sharedOrigin bool, err error) {
	// A migration that failed early does not have all of the tables.
	rows, err := conn.Query(ctx, `select relname::text from pg_class where relnamespace = 'walferry'::regnamespace and relkind = 'r'`)
	if err != nil {
		return false, fmt.Errorf("clean up the target: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, fmt.Errorf("clean up the target: %w", err)
	}
	var remove, drop strings.Builder
	others := "false"
	for _, t := range []struct{ table, column string }{
		{"migration", "name"}, {"progress", "stream"}, {"copy_state", "migration"}, {"copy_plan", "migration"}, {"word", "migration"}, {"validation", "migration"}, {"request", "migration"}, {"heartbeat", "migration"},
	} {
		if !slices.Contains(there, t.table) {
			continue
		}
		fmt.Fprintf(&drop, "drop table walferry.%s;", t.table)
		fmt.Fprintf(&remove, "delete from walferry.%s where %s = '%s';", t.table, t.column, name) // the name is of [a-z0-9_]
		if t.column != "migration" {
			others += fmt.Sprintf(" or exists(select from walferry.%s where %s <> '%s')", t.table, t.column, name)
		}
	}
	var shared bool
	if err := conn.QueryRow(ctx, `select `+others).Scan(&shared); err != nil {
		return false, fmt.Errorf("clean up the target: %w", err)
	}
	onwards, err := otherMigrations(ctx, conn, "", name)
	if err != nil {
		return false, err
	}
	sql := `drop schema walferry cascade`
	switch {
	case shared:
		sql = remove.String()
	case len(onwards) > 0: // from here to a third server: its fence is in this schema
		sql = drop.String()
	}
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return false, fmt.Errorf("clean up the target: %w", err)
	}
	return dropOrigin(ctx, conn, "walferry_"+name)
}

// dropOrigin drops walferry's replication origin if the role may and there is one. Origins belong
// to the server: one in use is shared with a migration of the same name to another database, and
// stays.
func dropOrigin(ctx context.Context, conn *pgx.Conn, name string) (inUse bool, err error) {
	var there, may bool
	err = conn.QueryRow(ctx, `select exists(select from pg_replication_origin where roname = $1),
  has_function_privilege('pg_replication_origin_drop(text)', 'EXECUTE')
  and (current_setting('server_version_num')::int >= 140000 or (select rolsuper from pg_roles where rolname = current_user))`, name).Scan(&there, &may)
	if err != nil {
		return false, fmt.Errorf("look for the replication origin: %w", err)
	}
	if !there || !may {
		return false, nil
	}
	_, err = conn.Exec(ctx, `select pg_replication_origin_drop($1)`, name)
	if catalog.State(err) == catalog.ObjectInUse {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("drop the replication origin: %w", err)
	}
	return false, nil
}
