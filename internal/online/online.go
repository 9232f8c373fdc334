// Package online runs DDL on a database that is in use: no session waits behind it for longer than
// a moment, none becomes the victim of a deadlock with it, and the database's own event triggers do
// not fire if that can be avoided.
package online

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// brief limits a wait for a lock to a fifth of a second and to half of the server's
// deadlock_timeout: a session that waits for us is let go before it can be chosen as a deadlock's
// victim. It applies until the end of the transaction.
const brief = `select pg_catalog.set_config('lock_timeout', ` + moment + `, true);`

const moment = `greatest(10, least(200, 500 * extract(epoch from pg_catalog.current_setting('deadlock_timeout')::interval)))::int8::text`

// long is long enough for the server to detect what a lock waits for: an autovacuum is then
// canceled (ProcSleep in proc.c), but not for a waiter that gives up earlier.
const long = `select pg_catalog.set_config('lock_timeout', (2000 * extract(epoch from pg_catalog.current_setting('deadlock_timeout')::interval))::int8::text, true);`

// Try runs SQL, which locks at most one table, as one transaction. Busy reports whether its error
// may not occur the next time.
func Try(ctx context.Context, conn *pgx.Conn, sql string) error {
	return exec(ctx, conn, brief+sql)
}

// TryMany is Try for the locks of several tables, some of which it holds while it waits for others:
// the time limit is for all of it, not for each wait.
func TryMany(ctx context.Context, conn *pgx.Conn, sql string) error {
	// Version 10 starts counting with the message, by the previous setting.
	err := exec(ctx, conn, `begin;`+brief+`select pg_catalog.set_config('statement_timeout', `+moment+`, true)`)
	if err == nil {
		err = exec(ctx, conn, sql+`;commit`)
	}
	if err != nil && !conn.IsClosed() {
		conn.Exec(context.WithoutCancel(ctx), `rollback`) //nolint:errcheck // the connection's next use will tell
	}
	return err
}

// TryPastVacuum is Try for a table, as SQL, that an autovacuum is working on: it cancels that.
// Waiting for the weak lock that does so blocks no reader or writer.
func TryPastVacuum(ctx context.Context, conn *pgx.Conn, table, sql string) error {
	return exec(ctx, conn, long+`lock table only `+table+` in share update exclusive mode;`+brief+sql)
}

// Run tries until it succeeds, fails other than because something is busy, or ctx ends. With a
// table, it does not wait for an autovacuum of that.
func Run(ctx context.Context, conn *pgx.Conn, table, sql string) error {
	tell, _ := ctx.Value(tellKey{}).(Waits)
	return RunTelling(ctx, conn, table, sql, "waiting for a lock of "+table+", held by ", tell)
}

type tellKey struct{}

// Telling returns a context under which Run tells whom it waits for.
func Telling(ctx context.Context, tell Waits) context.Context {
	return context.WithValue(ctx, tellKey{}, tell)
}

// RunTelling is Run, and reports the holders of the table's locks that it waits for; why is what
// Wait.For is.
func RunTelling(ctx context.Context, conn *pgx.Conn, table, sql, why string, tell Waits) error {
	seen := looks{}
	// An attempt in progress when ctx ends may finish, which is soon; the connection survives, to
	// ask what was in the way.
	attempt, cancel := wait.Lingering(ctx)
	defer cancel()
	internal := 0
	for n := 0; ; n++ {
		var err error
		if table != "" && n >= 3 {
			err = TryPastVacuum(attempt, conn, table, sql)
		} else {
			err = Try(attempt, conn, sql)
		}
		if catalog.State(err) == catalog.InternalError {
			internal++
		}
		if err == nil || !Busy(err) || internal > mostInternal {
			return err
		}
		if tell != nil && table != "" && n >= 2 { // about a second
			if holders, err := Holders(attempt, conn, table); err == nil { // otherwise the next attempt reports what is wrong
				seen.tell(holders, why, tell)
			}
		}
		if Pause(ctx, n) != nil {
			return err
		}
	}
}

// Exec runs SQL that takes no table lock, and waits for whatever else it needs.
func Exec(ctx context.Context, conn *pgx.Conn, sql string) error {
	for n := 0; ; n++ {
		err := exec(ctx, conn, sql)
		if err == nil || catalog.State(err) != catalog.InternalError || n > mostInternal || Pause(ctx, n) != nil {
			return err
		}
	}
}

// Own is catalog.Own for what needs no lock on a table that others use.
func Own(ctx context.Context, conn *pgx.Conn, sql string) error {
	for n := 0; ; n++ {
		err := explain(ctx, conn, catalog.Own(ctx, conn, sql))
		if err == nil || catalog.State(err) != catalog.InternalError || n > mostInternal || Pause(ctx, n) != nil {
			return err
		}
	}
}

// Pause waits before attempt n+1: longer each time, up to about a second.
func Pause(ctx context.Context, n int) error {
	return wait.Sleep(ctx, wait.Pauses{First: 50 * time.Millisecond, Longest: time.Second, Random: true}.After(n))
}

// Two sessions that replace or drop the same function at once: the second gets an internal error
// ("tuple concurrently updated", in the server's language). That happens because the server
// continues a statement whose client was killed. Its code stands for much else, so it is not
// retried forever.
const mostInternal = 7

// Busy reports whether a statement, run as above, lost the race for its lock rather than being one
// that cannot work.
func Busy(err error) bool {
	switch catalog.State(err) {
	case catalog.QueryCanceled, // by our own statement_timeout
		catalog.InternalError:
		return true
	}
	return catalog.LostLock(err)
}

// exec runs SQL with the simple protocol, so that several statements are one transaction.
func exec(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return explain(ctx, conn, err)
}

// Open connects for DDL: Quiet.
func Open(ctx context.Context, c session.Config) (*pgx.Conn, error) {
	conn, err := session.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := Quiet(ctx, conn); err != nil {
		conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was done
		return nil, err
	}
	return conn, nil
}

// Quiet keeps event triggers from firing for this session, if the role may: from version 17 all of
// them; before, with session_replication_role, those enabled as usual. walferry's sessions for DDL
// write to no table with users' triggers or rules.
func Quiet(ctx context.Context, conn *pgx.Conn) error {
	sql := `set session_replication_role = replica`
	if session.Major(conn.PgConn()) >= 17 {
		sql = `set event_triggers = off`
	}
	if _, err := conn.Exec(ctx, sql); err != nil && catalog.State(err) != catalog.InsufficientPrivilege {
		return fmt.Errorf("leave out event triggers: %w", err)
	}
	return nil
}

// Loud is the condition on pg_event_trigger t under which it fires despite Quiet.
func Loud(major int, superuser bool) string {
	switch {
	case superuser && major >= 17:
		return `false`
	case superuser:
		return `t.evtenabled in ('A', 'R')`
	case major >= 17:
		return `t.evtenabled in ('O', 'A') and not pg_catalog.has_parameter_privilege('event_triggers', 'SET')`
	case major >= 15:
		return `t.evtenabled in ('A', case when pg_catalog.has_parameter_privilege('session_replication_role', 'SET') then 'R' else 'O' end)`
	}
	return `t.evtenabled in ('O', 'A')`
}

// EventTriggerError is a failure of a statement because of an event trigger of the database.
type EventTriggerError struct {
	Name string // of the trigger
	Err  error
}

func (e *EventTriggerError) Error() string {
	return fmt.Sprintf("event trigger %s: %v", pgx.Identifier{e.Name}.Sanitize(), e.Err)
}

func (e *EventTriggerError) Unwrap() error { return e.Err }

// Hint returns what the operator can do.
func (e *EventTriggerError) Hint() string {
	name := pgx.Identifier{e.Name}.Sanitize()
	return fmt.Sprintf("the database's own event trigger fires for walferry's statements: `alter event trigger %s disable` there, the same command again, and `alter event trigger %s enable` afterwards", name, name)
}

// explain names the event trigger in whose function a statement has failed.
func explain(ctx context.Context, conn *pgx.Conn, err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Where == "" || conn.IsClosed() {
		return err
	}
	rows, listErr := conn.Query(ctx, `select evtname::text, evtfoid::pg_catalog.regprocedure::text from pg_catalog.pg_event_trigger where evtenabled <> 'D'`)
	if listErr != nil {
		return err
	}
	triggers, listErr := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Name, Function string }])
	if listErr != nil {
		return err
	}
	for _, t := range triggers {
		if strings.Contains(server.Where, t.Function) {
			return &EventTriggerError{t.Name, err}
		}
	}
	return err
}

// looks counts, by process, at how many looks in a row a holder was there; negative: after it was
// reported to people.
type looks map[int32]int

// tell reports those holders that were there at the last look and the one before: others come and
// go. People are told of each once.
func (seen looks) tell(holders []Holder, why string, tell Waits) {
	var stay, fresh []Holder
	there := map[int32]bool{}
	for _, h := range holders {
		there[h.PID] = true
		switch n := seen[h.PID]; {
		case n < 0:
			stay = append(stay, h)
		case n > 0:
			stay, fresh = append(stay, h), append(fresh, h)
			seen[h.PID] = -1 // also if it goes and comes again
		default:
			seen[h.PID] = 1
		}
	}
	for pid, n := range seen {
		if n > 0 && !there[pid] {
			delete(seen, pid)
		}
	}
	if len(fresh) > 0 {
		tell(Wait{why, fresh}, true)
	}
	if len(stay) > 0 {
		tell(Wait{why, stay}, false)
	}
}

// Holder is a transaction with a lock on a table. What the role may not see of it is empty.
type Holder struct {
	PID               int32 // 0: a prepared transaction
	User, Application string
	Seconds           float64 // for which it has been open; negative: not visible to the role
	State             string  // of its session, such as "idle in transaction"
	Query             string  // kind of the statement that it runs or ran last, such as UPDATE or REPACK (CONCURRENTLY): nothing that may be a secret
}

func (h Holder) String() string {
	if h.PID == 0 {
		return "a prepared transaction"
	}
	text := fmt.Sprintf("pid %d (%s, %q", h.PID, cmp.Or(h.User, "a process of the server"), h.Application)
	if h.Seconds >= 0 {
		text += fmt.Sprintf(", a transaction of %.0f s", h.Seconds)
	}
	if h.State != "" {
		text += ", " + h.State
	}
	if h.Query != "" {
		text += ", " + h.Query
	}
	return text + ")"
}

// HolderColumns are the columns of a Holder, from pg_locks l and its pg_stat_activity a.
const HolderColumns = `coalesce(l.pid, 0), coalesce(max(a.usename::text), ''), coalesce(nullif(max(a.application_name), ''), max(a.backend_type), ''),
       coalesce(extract(epoch from clock_timestamp() - min(a.xact_start)), -1)::float8,
       coalesce(max(a.state), ''), coalesce(upper(substring(max(a.query) from '(?i)^\s*(repack\s*\([a-z, ]+\)|[a-z]+)')), '')`

// Holders lists the holders of a table's locks, the oldest first.
func Holders(ctx context.Context, conn *pgx.Conn, table string) ([]Holder, error) {
	rows, err := conn.Query(ctx, `
select `+HolderColumns+`
  from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.granted and l.relation = pg_catalog.to_regclass($1)
   and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
   and l.pid is distinct from pg_catalog.pg_backend_pid()
 group by l.pid order by 4 desc`, table)
	if err != nil {
		return nil, fmt.Errorf("list the holders of locks on %s: %w", table, err)
	}
	holders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Holder])
	if err != nil {
		return nil, fmt.Errorf("list the holders of locks on %s: %w", table, err)
	}
	return holders, nil
}

// Wait is whom somebody waits for, as of one look.
type Wait struct {
	For     string // up to the holders, as in "waiting for a lock of t, held by "
	Holders []Holder
}

func (w Wait) String() string { return w.For + List(w.Holders) }

// Waits is told of all whom each look finds, and, with say, once of those whom people are to be told
// of. nil: nobody is told.
type Waits func(w Wait, say bool)

// Saying returns a Waits that tells people.
func Saying(tell func(string)) Waits {
	return func(w Wait, say bool) {
		if say {
			tell(w.String())
		}
	}
}

// EndHint is the SQL that ends transactions.
func EndHint(holders []Holder) string {
	var sql []string
	for _, h := range holders {
		if h.PID != 0 {
			sql = append(sql, fmt.Sprintf("select pg_terminate_backend(%d)", h.PID))
		}
	}
	if len(sql) == 0 {
		return "COMMIT PREPARED or ROLLBACK PREPARED what pg_prepared_xacts lists"
	}
	return "let them end, or end them: " + strings.Join(sql, "; ")
}

// List joins holders for a sentence.
func List(holders []Holder) string {
	var text []string
	for _, h := range holders {
		text = append(text, h.String())
	}
	return strings.Join(text, ", ")
}
