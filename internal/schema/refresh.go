package schema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// asItsOwner comes before a refresh. The server runs a view's query with the rights of its owner,
// to whom row security may apply, as it does when the owner refreshes it.
const asItsOwner = "set local row_security = on;\n"

// RefreshViews refreshes every materialized view that is filled, in the order in which they were
// created, so that one that reads another comes after it. It returns how many were refreshed; the
// error joins those of the others. Readers of a view wait while it is refreshed.
func RefreshViews(ctx context.Context, conn *pgx.Conn) (int, error) {
	rows, err := conn.Query(ctx, `
select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'm' and c.relispopulated and `+catalog.NotOurs+` order by c.oid`)
	if err != nil {
		return 0, fmt.Errorf("list materialized views: %w", err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowToStructByPos[catalog.Name])
	if err != nil {
		return 0, fmt.Errorf("list materialized views: %w", err)
	}
	var failed []error
	for _, v := range views {
		name := v.String()
		if err := execute(ctx, conn, asItsOwner+`refresh materialized view `+name); err != nil {
			failed = append(failed, fmt.Errorf("refresh materialized view %s: %w", name, err))
			if conn.IsClosed() || ctx.Err() != nil {
				break
			}
		}
	}
	return len(views) - len(failed), errors.Join(failed...)
}
