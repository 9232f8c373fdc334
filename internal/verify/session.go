package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	pinned "github.com/walferry/walferry/internal/session"
)

// side is one of the two servers.
type side struct {
	name     string // Config.SourceIs or TargetIs
	major    int
	encoding string // of the database
	sessions []*session
	opened   bool // their transactions have begun
}

// session is a connection in a transaction under the side's snapshot. One goroutine uses it at a
// time.
type session struct {
	conn *pgx.Conn
	side string

	prepare string          // what settle has set, which releasing the locks reverts
	locked  map[string]bool // tables that are locked since the snapshot
	until   time.Time       // when they are released
}

// Application is what the sessions of a comparison are called.
const Application = "verify"

// connect opens n connections, so that open need not wait for them.
func (s *side) connect(ctx context.Context, dsn string, n int) error {
	if len(s.sessions) > 0 {
		return nil
	}
	for range n {
		conn, err := pinned.Open(ctx, pinned.Config{DSN: dsn, Application: Application, Settings: map[string]string{
			"work_mem":                        "64MB", // for the sorts of the second pass
			"max_parallel_workers_per_gather": fmt.Sprint(n),
			"constraint_exclusion":            "off", // no CHECK is evaluated to plan a read of one whole table
		}})
		if err != nil {
			s.close()
			return fmt.Errorf("%s: %w", s.name, err)
		}
		s.sessions = append(s.sessions, &session{conn: conn, side: s.name})
		if err := pinned.TablesOnly(ctx, conn.PgConn()); err != nil {
			s.close()
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// open begins a transaction on every connection, all under one snapshot. Without a given snapshot
// the first one exports its own until the others have it. Tables named in lock are locked against
// TRUNCATE as soon as the snapshot exists.
func (s *side) open(ctx context.Context, snapshot string, lock []string) error {
	if s.opened {
		return fmt.Errorf("the sessions on the %s are open already", s.name)
	}
	s.opened = true
	for _, session := range s.sessions {
		begin := "begin isolation level repeatable read read only"
		if snapshot != "" {
			begin += "; set transaction snapshot " + catalog.Literal(snapshot)
		}
		if _, err := session.conn.PgConn().Exec(ctx, begin).ReadAll(); err != nil {
			s.close()
			return fmt.Errorf("begin under snapshot %q on the %s: %w", snapshot, s.name, err)
		}
		if snapshot == "" {
			if err := session.conn.QueryRow(ctx, `select pg_export_snapshot()`).Scan(&snapshot); err != nil {
				s.close()
				return fmt.Errorf("export a snapshot on the %s: %w", s.name, err)
			}
		}
		if err := session.lockAll(ctx, lock); err != nil {
			s.close()
			return fmt.Errorf("lock tables on the %s: %w", s.name, err)
		}
	}
	s.major = pinned.Major(s.sessions[0].conn.PgConn())
	if err := s.sessions[0].conn.QueryRow(ctx, `select getdatabaseencoding()`).Scan(&s.encoding); err != nil {
		s.close()
		return fmt.Errorf("read the encoding of the %s: %w", s.name, err)
	}
	return nil
}

// lockAll locks tables until unlock, as far as the locks are available at once. It never waits:
// waiting while holding locks can make the application the victim of a deadlock. A table that is
// not locked may turn out to be rewritten when it is read, as without locks.
func (s *session) lockAll(ctx context.Context, tables []string) error {
	if len(tables) == 0 {
		return nil
	}
	if _, err := s.conn.PgConn().Exec(ctx, "savepoint unlocked").ReadAll(); err != nil {
		return err
	}
	s.locked = map[string]bool{}
	for _, table := range tables {
		_, err := s.conn.PgConn().Exec(ctx, "savepoint locking; lock table only "+table+" in access share mode nowait").ReadAll()
		if err != nil {
			s.conn.PgConn().Exec(ctx, "rollback to locking").ReadAll() //nolint:errcheck // a broken connection shows at its next use
			continue
		}
		s.locked[table] = true
	}
	return nil
}

// unlock releases the locks of lockAll.
func (s *session) unlock(ctx context.Context) error {
	s.locked = nil
	if _, err := s.conn.PgConn().Exec(ctx, "rollback to unlocked; "+s.prepare).ReadAll(); err != nil {
		return fmt.Errorf("release the locks: %w", err)
	}
	return nil
}

func (s *side) close() {
	for _, session := range s.sessions {
		// The context of the work may have ended.
		session.conn.Close(context.Background())
	}
	s.sessions = nil
}

// each runs SQL on every session of the side.
func (s *side) each(ctx context.Context, sql string) error {
	for _, session := range s.sessions {
		if _, err := session.conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return fmt.Errorf("%s on the %s: %w", sql, s.name, err)
		}
	}
	return nil
}

// savepoint is what read rolls back to.
const savepoint = "savepoint verify"

// errRewritten means that a table can no longer be read: TRUNCATE and the forms of ALTER TABLE that
// rewrite a table are not MVCC-safe (https://www.postgresql.org/docs/current/mvcc-caveats.html).
var errRewritten = errors.New("the table was truncated or rewritten after the snapshot was taken; verify again")

// read runs f with the table locked against rewrites, after a check that there was none since the
// snapshot. The lock is then released, so that TRUNCATE and ALTER TABLE, and everything queued
// behind them, wait for one part only.
func (s *session) read(ctx context.Context, r relation, f func() error) error {
	if s.locked != nil && !time.Now().Before(s.until) {
		if err := s.unlock(ctx); err != nil {
			return err
		}
	}
	err := s.readLocked(ctx, r, s.locked != nil && !s.locked[r.name], f)
	if !errors.Is(err, errBusy) {
		return err
	}
	// Waiting for this lock is harmless once the others are gone.
	if err := s.unlock(ctx); err != nil {
		return err
	}
	return s.readLocked(ctx, r, false, f)
}

// errBusy means that the lock of a table is not available at once.
var errBusy = errors.New("the table is locked")

func (s *session) readLocked(ctx context.Context, r relation, nowait bool, f func() error) error {
	mode := " in access share mode"
	if nowait {
		mode += " nowait"
	}
	results, err := s.conn.PgConn().Exec(ctx, "lock table only "+r.name+mode+"; "+
		"select coalesce(pg_relation_filenode("+catalog.Literal(r.name)+"::regclass), 0)").ReadAll()
	switch {
	case err == nil && string(results[len(results)-1].Rows[0][0]) != fmt.Sprint(r.filenode):
		err = errRewritten
	case err == nil:
		err = f()
	case nowait && catalog.State(err) == catalog.LockNotAvailable:
		err = errBusy
	}
	if _, rollbackErr := s.conn.PgConn().Exec(ctx, "rollback to "+savepoint).ReadAll(); rollbackErr != nil && err == nil {
		err = rollbackErr
	}
	return err
}

// lost reports whether the session is unusable after an error.
func (s *session) lost(ctx context.Context) bool { return ctx.Err() != nil || s.conn.IsClosed() }
