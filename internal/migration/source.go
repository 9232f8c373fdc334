package migration

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// linkSource is a link to the source, for DDL too.
func linkSource(ctx context.Context, c Config) (*session.Link, error) {
	return session.OpenLink(ctx, session.Config{DSN: c.Source, Application: c.Name}, online.Quiet)
}

// openSource connects to the source for DDL.
func openSource(ctx context.Context, c Config, what string) (*pgx.Conn, error) {
	return online.Open(ctx, session.Config{DSN: c.Source, Application: c.Name + " " + what})
}

// linkTarget is a link to the target, for DDL too: the source's event triggers come along with
// the schema, and what they do must not decide whether the target opens.
func linkTarget(ctx context.Context, c Config) (*session.Link, error) {
	return session.OpenLink(ctx, session.Config{DSN: c.Target, Application: c.Name}, online.Quiet)
}

// home is where the record of a migration is kept.
func home(target *session.Link, c Config) *state.Store { return state.At(target, c.Name) }

// proveSource reports as an error that c.Source is not the source of a migration.
func proveSource(ctx context.Context, c Config, rec *state.Record) error {
	return identity.CheckSource(ctx, session.Config{DSN: c.Source, Application: c.Name}, rec.SystemID, rec.Database)
}
