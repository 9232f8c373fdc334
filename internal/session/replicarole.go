package session

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// MaySetReplicaRole reports whether the role may set session_replication_role on a server, so that
// neither ordinary triggers nor foreign keys act on what is applied.
func MaySetReplicaRole(ctx context.Context, server Lender) (may bool, err error) {
	err = server.Do(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // that is the point
		_, err = tx.Exec(ctx, `set local session_replication_role = replica`)
		may = err == nil
		return nil
	})
	return may, err
}
