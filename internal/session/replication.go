package session

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// OpenReplicationConfig is OpenReplication for the result of Parse, so that the caller can choose
// how the connection reads.
func OpenReplicationConfig(ctx context.Context, cfg *pgx.ConnConfig) (*pgconn.PgConn, error) {
	cfg.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return nil, explain(cfg, err)
	}
	if err := pinLater(ctx, conn); err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return conn, nil
}
