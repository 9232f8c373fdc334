package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Pin sets what Open pins on a connection that was opened elsewhere, or handed out by a pooler: it
// may not have had the startup parameters.
func Pin(ctx context.Context, conn *pgconn.PgConn) error {
	var sql strings.Builder
	for _, name := range slices.Sorted(maps.Keys(pinned)) {
		fmt.Fprintf(&sql, "set %s = '%s';", name, pinned[name])
	}
	if _, err := conn.Exec(ctx, sql.String()).ReadAll(); err != nil {
		return fmt.Errorf("pin session settings: %w", err)
	}
	return pinLater(ctx, conn)
}

// TablesOnly makes the server refuse to read views and foreign tables other than the system's, if
// its minor release can (those of August 2024, and version 17 and later): a relation that its owner
// replaces with a view after the catalog was read would run the owner's functions with walferry's
// rights. It is for sessions that read only tables (CVE-2024-7348 in pg_dump).
func TablesOnly(ctx context.Context, conn *pgconn.PgConn) error {
	if Major(conn) < 12 {
		return nil
	}
	_, err := conn.Exec(ctx, `select pg_catalog.set_config(name, 'view, foreign-table', false) from pg_catalog.pg_settings where name = 'restrict_nonsystem_relation_kind'`).ReadAll()
	if err != nil {
		return fmt.Errorf("pin session settings: %w", err)
	}
	return nil
}
