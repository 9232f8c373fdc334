package session

import (
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Parse reads a DSN without pinning anything.
func Parse(dsn string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("parse connection string: it is neither a URI nor keyword=value pairs")
	}
	return cfg, nil
}

// explain says which server could not be reached, and nothing secret.
func explain(cfg *pgx.ConnConfig, err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return fmt.Errorf("connect to %s: %w", Address(cfg), pgErr)
	}
	return fmt.Errorf("connect to %s: %w", Address(cfg), err)
}

// Address is host:port/database of a configuration, for messages.
func Address(cfg *pgx.ConnConfig) string {
	return net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port)) + "/" + cfg.Database
}
