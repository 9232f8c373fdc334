package cleanup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/flow"
)

// fromTarget removes the migration's rows from its target, and the schema with the last migration.
// sharedOrigin means that the replication origin stays: another database's migration has the same.
func fromTarget(ctx context.Context, conn *pgx.Conn, name string) (sharedOrigin bool, err error) {
	back := flow.Name{Migration: name, Direction: flow.Back}
	if err := flow.DisarmFrom(ctx, conn, back); err != nil {
		return false, err
	}
	if err := fence(ctx, conn, back.String()); err != nil {
		return false, err
	}
	if err := flow.Unwatch(ctx, conn, back.String()); err != nil {
		return false, err
	}
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
		{"migration", "name"}, {"progress", "stream"}, {"copy_state", "migration"}, {"copy_plan", "migration"}, {"copy_piece", "migration"}, {"word", "migration"}, {"validation", "migration"}, {"request", "migration"}, {"heartbeat", "migration"},
	} {
		if !slices.Contains(there, t.table) {
			continue
		}
		row := fmt.Sprintf("delete from walferry.%s where %s = '%s';", t.table, t.column, name) // the name is of [a-z0-9_]
		remove.WriteString(row)
		if t.table == "progress" { // it may be in the publication of a migration from here to a third server
			drop.WriteString(row)
		} else {
			fmt.Fprintf(&drop, "drop table walferry.%s;", t.table)
		}
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
	return flow.DropOrigin(ctx, conn, flow.Name{Migration: name})
}
