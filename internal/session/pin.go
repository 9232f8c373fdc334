package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Pin sets what Open pins on a connection that somebody else opened, or that a
// pooler handed out: it need not have had the startup parameters.
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
