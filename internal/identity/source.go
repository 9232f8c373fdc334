package identity

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/session"
)

// Source is which cluster and database a server is.
func Source(ctx context.Context, c session.Config) (id decoder.Identity, err error) {
	conn, err := session.OpenReplication(ctx, c)
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

// CheckSource compares a server with the source of a migration, but for the timeline. Whatever asks, changes
// or compares something there goes through it first: a migration of the same name, on another
// server, has a slot and a fence of the same names.
func CheckSource(ctx context.Context, c session.Config, systemID, database string) error {
	id, err := which(ctx, c)
	if err != nil {
		return err
	}
	if id.SystemID != systemID {
		return &decoder.IdentityError{What: "system identifier", Want: systemID, Got: id.SystemID}
	}
	if id.Database != database {
		return &decoder.IdentityError{What: "database", Want: database, Got: id.Database}
	}
	return nil
}

// which is Source without the timeline, and without a wal sender where the role may
// read the control file.
func which(ctx context.Context, c session.Config) (id decoder.Identity, err error) {
	conn, err := session.Open(ctx, c)
	if err != nil {
		return id, err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	var system int64
	err = conn.QueryRow(ctx, `select system_identifier, current_database()::text from pg_control_system()`).Scan(&system, &id.Database)
	if err != nil {
		return Source(ctx, c)
	}
	id.SystemID = strconv.FormatUint(uint64(system), 10) // as IDENTIFY_SYSTEM writes it
	return id, nil
}
