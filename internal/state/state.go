// Package state is what a migration keeps: its record, what other processes ask of the one that
// runs, and what that shows of itself meanwhile. All of it is in one schema of one server, the
// store's home; this package alone knows the tables migration and request there.
package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// Store reads and writes the record of one migration, where it lives. What belongs to the record and is
// not needed whenever it is looked at are its Values; what others ask of the running migrate is in its
// Mailbox; what that shows of itself is its View.
type Store struct {
	home    *session.Link
	name    string
	run     string // of a process that has taken the migration over; empty: it only looks and asks
	trusted bool   // nobody else has a hand in the schema; only used by a function of Do
	reading bool   // see Read
}

// At returns the store of a migration in the schema walferry of the server that home is connected
// to. The store uses home for as long as it is used itself, and does not close it.
func At(home *session.Link, migration string) *Store { return &Store{home: home, name: migration} }

// Name is the migration's.
func (s *Store) Name() string { return s.name }

// Has reports whether the home has a table of the schema. Before anything of it is read it makes
// sure that nobody else has a hand in it: it might be a view, and run functions of whoever created
// it.
func (s *Store) Has(ctx context.Context, conn *pgx.Conn, table string) (yes bool, err error) {
	if !s.trusted && !s.reading {
		if err := catalog.Trust(ctx, conn); err != nil {
			return false, fmt.Errorf("target: %w", err)
		}
		s.trusted = true
	}
	err = conn.QueryRow(ctx, `select to_regclass('walferry.' || $1) is not null`, table).Scan(&yes)
	if err != nil || !yes || !s.reading {
		return yes, err
	}
	if _, err := conn.Exec(ctx, `lock table walferry.`+table+` in access share mode`); err != nil {
		return false, fmt.Errorf("lock walferry.%s on the target: %w", table, err)
	}
	if err := catalog.TrustAsLocked(ctx, conn); err != nil {
		return false, fmt.Errorf("target: %w", err)
	}
	return true, nil
}

// Read runs f, which only reads, with any role that may read: also as a superuser where the
// migration is another role's. What Has looks at stays as it is until f has ended.
func (s *Store) Read(ctx context.Context, f func() error) error {
	if err := s.home.Exec(ctx, `begin read only`); err != nil {
		return err
	}
	s.reading = true
	err := f()
	s.reading = false
	if rollback := s.home.Exec(ctx, `rollback`); err == nil && rollback != nil {
		return rollback
	}
	return err
}

func (s *Store) exists(ctx context.Context) (yes bool, err error) {
	err = s.home.Do(ctx, func(conn *pgx.Conn) error {
		yes, err = s.Has(ctx, conn, "migration")
		return err
	})
	return yes, err
}

// Known returns the names of the migrations that the home has.
func (s *Store) Known(ctx context.Context) (names []string, err error) {
	ok, err := s.exists(ctx)
	if err != nil || !ok {
		return nil, err
	}
	err = s.home.Row(ctx, `select coalesce(array_agg(name order by name), '{}') from walferry.migration where strpos(name, '.') = 0`, nil, &names)
	if err != nil {
		return nil, fmt.Errorf("list the target's migrations: %w", err)
	}
	return names, nil
}

// Missing is the error of a migration that the home has no record of.
func (s *Store) Missing(ctx context.Context) error {
	known, err := s.Known(ctx)
	if err != nil {
		return err
	}
	return NoMigration(s.name, known)
}

// Progress is where the target is: the row that each transaction of the applier moves.
type Progress struct {
	Applied      string `json:"applied,omitempty"`
	Transactions int64  `json:"transactions,omitempty"`
	Changes      int64  `json:"changes,omitempty"`
}

// ReadProgress reads that row with whatever runs a query of one row.
func ReadProgress(ctx context.Context, row func(ctx context.Context, sql string, args []any, into ...any) error, stream string) (p Progress, err error) {
	err = row(ctx, `select applied::text, transactions, changes from walferry.progress where stream = $1`, []any{stream}, &p.Applied, &p.Transactions, &p.Changes)
	if err != nil {
		return p, fmt.Errorf("read where the target is: %w", err)
	}
	return p, nil
}

// none ignores that there is no row.
func none(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}
