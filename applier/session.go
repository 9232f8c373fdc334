package applier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	pinning "github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// session is one connection to the target, and all that is known as long as it lasts.
type session struct {
	conn     *pgx.Conn // nil while a pipe has it
	backend  backend
	facts    *facts
	prepared prepared
}

// backend identifies a server process, as a later one may have its pid.
type backend struct {
	pid     uint32
	started time.Time
}

// errStandby looks like the server's own error, and is transient: by the next attempt the name may
// lead to the primary.
var errStandby = &pgconn.PgError{Severity: "ERROR", Code: catalog.ReadOnlyTransaction, Message: "the target is a standby in recovery"}

// openSession makes conn fit for applying. On error the caller closes conn.
func (a *Applier) openSession(ctx context.Context, conn *pgx.Conn) (*session, error) {
	if status := conn.PgConn().TxStatus(); status != 'I' {
		return nil, &inputError{"open session on target: the connection is inside a transaction"}
	}
	if err := pinning.Pin(ctx, conn.PgConn()); err != nil {
		return nil, err
	}
	s := &session{conn: conn, facts: &facts{major: pinning.Major(conn.PgConn()), windows: a.windows, folds: &a.folds, own: ownStatements{
		begin:            &statement{sql: "begin"},
		deferConstraints: &statement{sql: "set constraints all deferred"},
		move:             &statement{sql: assert("", moveProgress, false, "1")},
		claim:            &statement{sql: assert("", claimProgress, false, "1")},
		origin:           &statement{sql: "select pg_replication_origin_xact_setup($1, $2)"},
		commit:           &statement{sql: "commit"},
	}}}
	s.forget()
	if err := s.plan(ctx); err != nil {
		return nil, err
	}
	var recovery bool
	err := conn.QueryRow(ctx, `
select pg_is_in_recovery(), pid, backend_start from pg_stat_activity where pid = pg_backend_pid()`,
		pgx.QueryExecModeExec).Scan(&recovery, &s.backend.pid, &s.backend.started)
	if err != nil {
		return nil, fmt.Errorf("open session on target: %w", err)
	}
	if recovery {
		return nil, fmt.Errorf("open session on target: %w", errStandby)
	}
	if s.facts.replica, err = s.try(ctx, a.log, `set session_replication_role = replica`); err != nil {
		return nil, err
	}
	if err := s.tag(ctx, a.log, "walferry_"+a.config.Name); err != nil {
		return nil, err
	}
	return s, s.measure(ctx)
}

// measure takes the shortest of a few round trips.
func (s *session) measure(ctx context.Context) error {
	for i := range 3 {
		begun := time.Now()
		if err := s.conn.Ping(ctx); err != nil {
			return fmt.Errorf("open session on target: %w", err)
		}
		if took := time.Since(begun); i == 0 || took < s.facts.roundTrip {
			s.facts.roundTrip = took
		}
	}
	return nil
}

// plan makes the planner choose as for a large table. A statement that was planned while its table
// was small, or never analyzed, keeps its plan until the next ANALYZE: a scan of the whole table
// for each row. Without sequential scans a usable index is always taken. Their "cost" would trigger
// the JIT compiler for each row.
func (s *session) plan(ctx context.Context) error {
	sql := `set enable_seqscan = off`
	if s.facts.major >= 11 {
		sql += `; set jit = off`
	}
	if s.facts.major >= 12 {
		sql += `; set plan_cache_mode = force_generic_plan`
	}
	if _, err := s.conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("set planner settings on target: %w", err)
	}
	return nil
}

// tag makes the WAL that this session writes carry a replication origin, where the role may
// (superusers, and from 14 on those who were granted it). It is for others, above all for a stream
// in the other direction; our position is kept in walferry.progress alone. An origin belongs to the
// server, not to a database, and only one session at a time can use it: where a stream of the same
// name goes to another database of the server, the second one writes without.
func (s *session) tag(ctx context.Context, log *slog.Logger, name string) error {
	ok, err := s.try(ctx, log, `select pg_replication_origin_create($1) where pg_replication_origin_oid($1) is null`, name)
	if err != nil || !ok {
		return err
	}
	ok, err = s.try(ctx, log, `select pg_replication_origin_session_setup($1)`, name)
	if ok {
		s.facts.origin = name
	}
	return err
}

// try runs what the server may refuse. An error means that the connection was lost.
func (s *session) try(ctx context.Context, log *slog.Logger, sql string, args ...any) (bool, error) {
	_, err := s.conn.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	if err == nil {
		return true, nil
	}
	var server *pgconn.PgError
	if errors.As(err, &server) && !s.conn.IsClosed() {
		log.Debug("target refuses a setting; continuing without it", "sql", sql, "error", server.Message, "sqlstate", server.Code)
		return false, nil
	}
	return false, fmt.Errorf("open session on target: %w", err)
}

// endTimeout is how long to wait for the end of a backend.
const endTimeout = 10 * time.Second

// end terminates a backend of ours whose connection was lost. It may not have noticed, and then it
// keeps its locks, including the one on the progress row, and the replication origin until TCP
// gives up.
func (b backend) end(ctx context.Context, conn *pgx.Conn) error {
	deadline := time.Now().Add(endTimeout)
	return wait.Until(ctx, wait.Every(20*time.Millisecond), func() (bool, error) {
		tag, err := conn.Exec(ctx, `
select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and backend_start = $2 and pid <> pg_backend_pid()`,
			pgx.QueryExecModeExec, b.pid, b.started)
		if err != nil {
			return false, fmt.Errorf("end the previous session on target: %w", err)
		}
		return tag.RowsAffected() == 0 || time.Now().After(deadline), nil // whatever needs what it still has waits for it
	})
}

// forget drops what is known of the target's tables, and the names of prepared statements; the
// server drops its own at DEALLOCATE ALL.
func (s *session) forget() {
	s.facts.forget()
	s.prepared.forget()
}

// clean ends a failed transaction and makes the session as good as new.
func (s *session) clean(ctx context.Context) error {
	s.forget()
	if s.conn.IsClosed() {
		return errors.New("connection closed")
	}
	if _, err := s.conn.PgConn().Exec(ctx, "rollback").ReadAll(); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return s.conn.DeallocateAll(ctx)
}

// close ends the session. The server's process ends a moment later, so the origin is released
// first: whatever cleans up next finds it free.
func (s *session) close(ctx context.Context) error {
	if s.facts.origin != "" && !s.conn.IsClosed() {
		s.conn.Exec(ctx, `select pg_replication_origin_session_reset()`, pgx.QueryExecModeExec) //nolint:errcheck // the end of the process releases it, too
	}
	return s.conn.Close(ctx)
}
