// Package cutover makes the source refuse writes, reads its last position, and
// carries its sequences over: the steps of a switch that touch the servers. Their
// order, and what is persisted between them, belongs to internal/migration.
package cutover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
)

// SQLState is the SQLSTATE of the error that a fenced table raises. Its class is
// not one of PostgreSQL's, so that a client can tell it from every other error.
const SQLState = "WF001"

// PassSetting is the setting that lets a session through the fence when it holds
// the migration's name: for the applier of a stream in the other direction.
const PassSetting = "walferry.pass"

const triggerName = "walferry_fence"

// Fence refuses INSERT, UPDATE, DELETE, TRUNCATE, COPY and MERGE on tables, by
// statement-level triggers that are enabled ALWAYS.
type Fence struct {
	Name   string          // of the migration
	Tables []catalog.Table // ordinary and partitioned ones
}

// State is what stands on the source.
type State struct {
	Raised   bool      // at least one trigger is there
	Sealed   bool      // it has no deadline any more
	Deadline time.Time // the fence lets everything pass after it, by the source's clock
	Triggers int       // tables that have one
}

func function(name string) string { return "walferry." + catalog.Quote("fence_"+name) }

// createFunction writes the trigger function. A fence with a deadline opens by
// itself when walferry is dead: nothing but the source's own clock is needed.
func createFunction(name, deadline string) string {
	open := ""
	if deadline != "" {
		open = fmt.Sprintf("  if pg_catalog.clock_timestamp() >= timestamptz %s then return null; end if;\n", catalog.Literal(deadline))
	}
	return fmt.Sprintf(`create or replace function %s() returns trigger language plpgsql as $walferry$
begin
  if pg_catalog.current_setting('%s', true) = %s then return null; end if;
%s  raise exception 'walferry: %%.%% is fenced: this database is moving to another server', tg_table_schema, tg_table_name
    using errcode = '%s', hint = 'Connect to the new database and try again there.';
end
$walferry$`, function(name), PassSetting, catalog.Literal(name), open, SQLState)
}

// UnfenceSQL is what an operator can run with psql when walferry is gone. The
// first statement lets every writer through and needs no lock of a table; the
// second one leaves no trigger of the fence.
func UnfenceSQL(name string) string {
	return fmt.Sprintf("create or replace function %[1]s() returns trigger language plpgsql as 'begin return null; end';\ndrop function %[1]s() cascade;", function(name))
}

// Raise puts the fence up and returns the position that every write to the tables
// is before, and the moment at which writers began to be refused.
//
// An attempt that has not got the lock of every table in well under the server's
// deadlock_timeout lets all of them go and tries again, so that no application's
// transaction is made a deadlock's victim. It gives up when ctx ends; then nothing
// is left. The fence opens by itself after life, unless it is sealed.
func (f Fence) Raise(ctx context.Context, conn *pgx.Conn, life time.Duration) (lsn string, since time.Time, err error) {
	var patience time.Duration
	var ms float64
	if err := conn.QueryRow(ctx, `select extract(epoch from current_setting('deadlock_timeout')::interval)::float8 * 1000`).Scan(&ms); err != nil {
		return "", since, fmt.Errorf("raise fence: read deadlock_timeout: %w", err)
	}
	patience = max(time.Duration(ms*0.4)*time.Millisecond, 10*time.Millisecond)
	started := time.Now()
	for attempt := 1; ; attempt++ {
		since, err = f.attempt(ctx, conn, life, patience)
		if err == nil {
			break
		}
		if ctx.Err() != nil || !busy(err) {
			return "", since, fmt.Errorf("raise fence, attempt %d after %s: %w", attempt, time.Since(started).Round(time.Millisecond), err)
		}
		wait := patience/2 + rand.N(patience)
		select {
		case <-ctx.Done():
			return "", since, fmt.Errorf("raise fence: %d attempts in %s found a table locked: %w", attempt, time.Since(started).Round(time.Millisecond), err)
		case <-time.After(wait):
		}
	}
	if err := conn.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&lsn); err != nil {
		return "", since, fmt.Errorf("raise fence: read position: %w", err)
	}
	return lsn, since, nil
}

func (f Fence) attempt(ctx context.Context, conn *pgx.Conn, life, patience time.Duration) (since time.Time, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return since, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	var deadline string
	err = tx.QueryRow(ctx, `select (clock_timestamp() + $1::float8 * interval '1 second')::text`, life.Seconds()).Scan(&deadline)
	if err != nil {
		return since, err
	}
	// Everything that can be prepared without a lock is, so that writers wait less.
	if _, err := tx.Exec(ctx, createFunction(f.Name, deadline)); err != nil {
		return since, err
	}
	if len(f.Tables) > 0 {
		var lock, create strings.Builder
		for i := range f.Tables {
			t := f.Tables[i].String()
			if i > 0 {
				lock.WriteString(", ")
			}
			lock.WriteString("only " + t)
			fmt.Fprintf(&create, "create trigger %s before insert or update or delete or truncate on %s for each statement execute procedure %s();\n",
				triggerName, t, function(f.Name))
			fmt.Fprintf(&create, "alter table only %s enable always trigger %s;\n", t, triggerName)
		}
		// statement_timeout bounds the wait for all locks together; lock_timeout only each.
		if _, err := tx.Exec(ctx, fmt.Sprintf(`set local statement_timeout = %d`, patience.Milliseconds())); err != nil {
			return since, err
		}
		if _, err := tx.Exec(ctx, `lock table `+lock.String()+` in share row exclusive mode`); err != nil {
			return since, err
		}
		since = time.Now()
		if _, err := tx.Exec(ctx, `set local statement_timeout = 0`); err != nil {
			return since, err
		}
		if _, err := tx.Conn().PgConn().Exec(ctx, create.String()).ReadAll(); err != nil {
			return since, err
		}
	} else {
		since = time.Now()
	}
	return since, tx.Commit(ctx)
}

// busy tells an attempt that lost the race for its locks from one that cannot work.
func busy(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case "57014", // query_canceled: our own statement_timeout
		"55P03", // lock_not_available
		"40P01": // deadlock_detected: with us as the victim
		return true
	}
	return false
}

// Seal takes the deadline away. It fails when the deadline has passed by then, as
// writes may have gone through. With nil, the source has refused every write since
// Raise and will until the fence is dropped.
func (f Fence) Seal(ctx context.Context, conn *pgx.Conn) error {
	state, err := Look(ctx, conn, f.Name)
	if err != nil {
		return err
	}
	if !state.Raised || state.Triggers < len(f.Tables) {
		return fmt.Errorf("seal fence: %d of %d tables have their trigger", state.Triggers, len(f.Tables))
	}
	if state.Sealed {
		return nil
	}
	if _, err := conn.Exec(ctx, createFunction(f.Name, "")); err != nil {
		return fmt.Errorf("seal fence: %w", err)
	}
	var late bool
	if err := conn.QueryRow(ctx, `select clock_timestamp() >= $1::timestamptz`, state.Deadline).Scan(&late); err != nil {
		return fmt.Errorf("seal fence: read the source's clock: %w", err)
	}
	if late {
		return errors.New("seal fence: its deadline passed before it was sealed, so that writes may have gone through")
	}
	return nil
}

// Look reads the fence's state from the source's catalogue.
func Look(ctx context.Context, q catalog.Querier, name string) (State, error) {
	var s State
	var body string
	err := q.QueryRow(ctx, `
select coalesce((select p.prosrc from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                  where n.nspname = 'walferry' and p.proname = $1), ''),
       (select count(*) from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
         where n.nspname = 'walferry' and p.proname = $1 and t.tgenabled = 'A')`, "fence_"+name).Scan(&body, &s.Triggers)
	if err != nil {
		return s, fmt.Errorf("read the fence's state: %w", err)
	}
	s.Raised = s.Triggers > 0
	if _, rest, ok := strings.Cut(body, "timestamptz '"); ok {
		text, _, _ := strings.Cut(rest, "'")
		if err := q.QueryRow(ctx, `select $1::text::timestamptz`, text).Scan(&s.Deadline); err != nil {
			return s, fmt.Errorf("read the fence's deadline: %w", err)
		}
	} else {
		s.Sealed = body != "" && s.Raised
	}
	return s, nil
}

// Drop takes the fence down. Nothing happens when there is none. Like Raise it
// never holds some locks while it waits long for others.
func Drop(ctx context.Context, conn *pgx.Conn, name string) error {
	state, err := Look(ctx, conn, name)
	if err != nil {
		return err
	}
	if state.Raised {
		// First let everybody through: this needs no lock of a table.
		if _, err := conn.Exec(ctx, createFunction(name, "-infinity")); err != nil {
			return fmt.Errorf("open fence: %w", err)
		}
	}
	for {
		err := drop(ctx, conn, name)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !busy(err) {
			return fmt.Errorf("drop fence: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("drop fence: %w", err)
		case <-time.After(50*time.Millisecond + rand.N(100*time.Millisecond)):
		}
	}
}

// drop removes the triggers table by table, each in a transaction of its own, as
// DROP TRIGGER takes ACCESS EXCLUSIVE.
func drop(ctx context.Context, conn *pgx.Conn, name string) error {
	rows, err := conn.Query(ctx, `
select n.nspname::text, c.relname::text from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid join pg_namespace pn on pn.oid = p.pronamespace
  join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where pn.nspname = 'walferry' and p.proname = $1 and t.tgname = $2`, "fence_"+name, triggerName)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Schema, Name string }])
	if err != nil {
		return err
	}
	for _, t := range tables {
		sql := fmt.Sprintf(`begin; set local statement_timeout = '300ms'; drop trigger if exists %s on %s; commit`, triggerName, catalog.Name(t.Schema, t.Name))
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			conn.Exec(context.WithoutCancel(ctx), `rollback`) //nolint:errcheck // the connection's next use tells
			return err
		}
	}
	_, err = conn.Exec(ctx, fmt.Sprintf(`drop function if exists %s()`, function(name)))
	return err
}
