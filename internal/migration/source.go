package migration

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// sourceID is which cluster and database the source is.
type sourceID struct {
	SystemID string
	Timeline int32
	Database string
}

func identify(ctx context.Context, c Config) (id sourceID, err error) {
	conn, err := session.OpenReplication(ctx, session.Config{DSN: c.Source, Application: c.Name})
	if err != nil {
		return id, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return id, fmt.Errorf("identify source: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 4 {
		return id, errors.New("identify source: IDENTIFY_SYSTEM answered something else than one row of four columns")
	}
	row := results[0].Rows[0]
	id.SystemID, id.Database = string(row[0]), string(row[3])
	if _, err := fmt.Sscan(string(row[1]), &id.Timeline); err != nil {
		return id, fmt.Errorf("identify source: timeline: %w", err)
	}
	return id, nil
}

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

// aside runs f with a connection to each side that nobody else uses, for what has to read both
// catalogues in turns.
func (r *runner) aside(ctx context.Context, f func(source, target *pgx.Conn) error) error {
	source, err := session.Open(ctx, session.Config{DSN: r.c.Source, Application: r.c.Name})
	if err != nil {
		return err
	}
	defer source.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only read
	target, err := session.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name})
	if err != nil {
		return err
	}
	defer target.Close(context.WithoutCancel(ctx)) //nolint:errcheck // likewise
	return f(source, target)
}

// proveSource tells whether c.Source is the source of a migration. Whatever asks, changes
// or compares something there goes through it first: a migration of the same name, on another
// server, has a slot and a fence of the same names.
func proveSource(ctx context.Context, c Config, rec *state.Record) error {
	id, err := whichSource(ctx, c)
	if err != nil {
		return err
	}
	if id.SystemID != rec.SystemID {
		return &decoder.IdentityError{What: "system identifier", Want: rec.SystemID, Got: id.SystemID}
	}
	if id.Database != rec.Database {
		return &decoder.IdentityError{What: "database", Want: rec.Database, Got: id.Database}
	}
	return nil
}

// whichSource is identify without the timeline, and without a wal sender where the role may
// read the control file.
func whichSource(ctx context.Context, c Config) (id sourceID, err error) {
	conn, err := session.Open(ctx, session.Config{DSN: c.Source, Application: c.Name})
	if err != nil {
		return id, err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	var system int64
	err = conn.QueryRow(ctx, `select system_identifier, current_database()::text from pg_control_system()`).Scan(&system, &id.Database)
	if err != nil {
		return identify(ctx, c)
	}
	id.SystemID = strconv.FormatUint(uint64(system), 10) // as IDENTIFY_SYSTEM writes it
	return id, nil
}
