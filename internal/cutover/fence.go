// Package cutover makes the source refuse writes, reads its last position, and
// carries its sequences over: the steps of a switch that touch the servers. Their
// order, and what is persisted between them, belongs to internal/migration.
package cutover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
	Raised   bool      // there are triggers, and their function refuses
	Sealed   bool      // it has refused everything since it was raised, and has no deadline
	Deadline time.Time // the fence lets everything pass after it, by the source's clock
	Triggers int       // tables that have one
}

func function(name string) string { return "walferry." + catalog.Quote("fence_"+name) }

// openFunction lets everybody through.
func openFunction(name string) string {
	return fmt.Sprintf("create or replace function %s() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as 'begin return null; end'", function(name))
}

// sealMark stands in the function of a sealed fence, in the place of a deadline.
const sealMark = "-- sealed"

// refuseFunction refuses, but for transactions that had written before: those with
// a transaction id below first. A fence with a deadline opens by itself when
// walferry is dead: nothing but the source's own clock is needed. Its search_path is
// pinned: it runs in the application's sessions, where `<` may be somebody's operator.
func refuseFunction(name string, first int64, deadline string) string {
	open := ""
	switch deadline {
	case "":
	case sealMark:
		open = "  " + sealMark + "\n"
	default:
		open = fmt.Sprintf("  if pg_catalog.clock_timestamp() >= timestamptz %s then return null; end if;\n", catalog.Literal(deadline))
	}
	return fmt.Sprintf(`create or replace function %s() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $walferry$
begin
  if pg_catalog.txid_current_if_assigned() < %d then return null; end if;
  if pg_catalog.current_setting('%s', true) = %s then return null; end if;
%s  raise exception 'walferry: %%.%% is fenced: this database is moving to another server', tg_table_schema, tg_table_name
    using errcode = '%s', hint = 'Connect to the new database and try again there.';
end
$walferry$`, function(name), first, PassSetting, catalog.Literal(name), open, SQLState)
}

// UnfenceSQL is what an operator can run with psql when walferry is gone. The
// first statement lets every writer through and needs no lock of a table; the
// second one leaves no trigger of the fence.
func UnfenceSQL(name string) string {
	return fmt.Sprintf("%s;\ndrop function %s() cascade;", openFunction(name), function(name))
}

// Prepare puts the triggers on the tables, open as yet: nobody is refused. Each
// needs SHARE ROW EXCLUSIVE on its table for a moment, and only on that one, so that
// no deadlock can come of it; where it is not to be had in a fraction of a second
// the writers behind it are let go first. It goes on until ctx ends.
func (f Fence) Prepare(ctx context.Context, conn *pgx.Conn) error {
	if err := catalog.Own(ctx, conn, openFunction(f.Name)); err != nil {
		return fmt.Errorf("create the fence's function: %w", err)
	}
	have, err := fenced(ctx, conn, f.Name)
	if err != nil {
		return err
	}
	for i := range f.Tables {
		t := f.Tables[i].String()
		if have[f.Tables[i].OID] {
			continue
		}
		sql := fmt.Sprintf(`begin; set local statement_timeout = '%dms';
create trigger %[2]s before insert or update or delete or truncate on %[3]s for each statement execute procedure %[4]s();
alter table only %[3]s enable always trigger %[2]s; commit`, patience.Milliseconds(), triggerName, t, function(f.Name))
		if err := persist(ctx, conn, sql); err != nil {
			return fmt.Errorf("put the fence's trigger on %s: %w", t, err)
		}
	}
	return nil
}

// patience is how long writers of a table may have to wait behind a lock of ours.
const patience = 300 * time.Millisecond

// persist runs SQL until it is not busy or ctx ends.
func persist(ctx context.Context, conn *pgx.Conn, sql string) error {
	for {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		if err == nil {
			return nil
		}
		if !conn.IsClosed() {
			conn.Exec(context.WithoutCancel(ctx), `rollback`) //nolint:errcheck // the connection's next use tells
		}
		if ctx.Err() != nil || !busy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(patience/4 + rand.N(patience/2)):
		}
	}
}

// fenced returns the tables that have an enabled trigger of the fence.
func fenced(ctx context.Context, q catalog.Querier, name string) (map[uint32]bool, error) {
	rows, err := q.Query(ctx, `
select t.tgrelid from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'walferry' and p.proname = $1 and t.tgname = $2 and t.tgenabled = 'A'`, "fence_"+name, triggerName)
	if err != nil {
		return nil, fmt.Errorf("list the fence's triggers: %w", err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("list the fence's triggers: %w", err)
	}
	have := make(map[uint32]bool, len(oids))
	for _, oid := range oids {
		have[oid] = true
	}
	return have, nil
}

// Raise closes the fence that Prepare has put up, and returns the position that every
// write to the tables is before, and the moment at which writers began to be
// refused. The fence opens by itself after life, unless it is sealed.
//
// Closing it is the replacement of a function and takes no lock of a table: nobody
// waits. Whoever takes the lock that a write needs after the replacement has
// committed sees the new function, as taking a lock reads the invalidation messages
// first (LockRelationOid in lmgr.c); so those who hold such a lock at that moment are
// all who may have got past the old one, and when each of their transactions has
// ended none is left. It is done twice: the first function lets transactions that
// have written before go on to their end, the second one nobody.
//
// On an error, also of ctx, the fence is closed or not: Drop it.
func (f Fence) Raise(ctx context.Context, conn *pgx.Conn, life time.Duration) (lsn string, since time.Time, err error) {
	have, err := fenced(ctx, conn, f.Name)
	if err != nil {
		return "", since, err
	}
	oids := make([]uint32, len(f.Tables))
	for i := range f.Tables {
		oids[i] = f.Tables[i].OID
		if !have[oids[i]] {
			return "", since, fmt.Errorf("raise fence: table %s has no trigger of it", &f.Tables[i])
		}
	}
	var deadline string
	var first int64 // this transaction's id: those that have written have a lower one
	err = conn.QueryRow(ctx, `select (clock_timestamp() + $1::float8 * interval '1 second')::text, txid_current()`, life.Seconds()).Scan(&deadline, &first)
	if err != nil {
		return "", since, fmt.Errorf("raise fence: %w", err)
	}
	since = time.Now()
	for _, lowest := range []int64{first, 0} {
		if _, err := conn.Exec(ctx, refuseFunction(f.Name, lowest, deadline)); err != nil {
			return "", since, fmt.Errorf("raise fence: %w", err)
		}
		if err := waitForWriters(ctx, conn, oids); err != nil {
			return "", since, err
		}
	}
	if err := conn.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&lsn); err != nil {
		return "", since, fmt.Errorf("raise fence: read position: %w", err)
	}
	return lsn, since, nil
}

// writersSQL lists who holds a lock under which rows of the tables can change. A
// prepared transaction has no process.
const writersSQL = `
select l.virtualtransaction, coalesce(l.pid, 0), coalesce(max(a.usename::text), ''), coalesce(max(a.application_name), '')
  from pg_locks l left join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.granted and l.relation = any($1::oid[])
   and l.database = (select oid from pg_database where datname = current_database())
   and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   and l.pid is distinct from pg_backend_pid()
 group by 1, 2`

// waitForWriters waits until the transactions that can have changed the tables when it
// was called have ended.
func waitForWriters(ctx context.Context, conn *pgx.Conn, oids []uint32) error {
	type writer struct {
		Transaction       string
		PID               int32
		User, Application string
	}
	list := func() ([]writer, error) {
		rows, err := conn.Query(ctx, writersSQL, oids)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByPos[writer])
	}
	before, err := list()
	if err != nil {
		return fmt.Errorf("raise fence: list the transactions that write: %w", err)
	}
	for wait := time.Millisecond; len(before) > 0; wait = min(2*wait, 20*time.Millisecond) {
		now, err := list()
		if err == nil {
			before = slices.DeleteFunc(before, func(w writer) bool {
				return !slices.ContainsFunc(now, func(n writer) bool { return n.Transaction == w.Transaction })
			})
			if len(before) == 0 {
				return nil
			}
			select {
			case <-ctx.Done():
				err = context.Cause(ctx)
			case <-time.After(wait):
				continue
			}
		}
		var who []string
		for _, w := range before {
			who = append(who, fmt.Sprintf("pid %d (%s, %q)", w.PID, w.User, w.Application))
		}
		return fmt.Errorf("raise fence: wait for transactions that wrote before it, of %s: %w", strings.Join(who, ", "), err)
	}
	return nil
}

// busy tells a statement that lost the race for its lock from one that cannot work.
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
	case "XX000": // internal_error
		// A session of a walferry that was killed replaces or drops the function too: the
		// server goes on with a statement whose client has gone.
		return strings.HasPrefix(pgErr.Message, "tuple concurrently ")
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
	// Two steps: when walferry dies here, the server may carry out the first one after
	// the deadline, and nobody is left who would see that it was late. So a fence
	// without a deadline proves nothing; the mark does, which comes after the look at
	// the clock, when the fence cannot open any more.
	if _, err := conn.Exec(ctx, refuseFunction(f.Name, 0, "")); err != nil {
		return fmt.Errorf("seal fence: %w", err)
	}
	var late bool
	if err := conn.QueryRow(ctx, `select clock_timestamp() >= $1::timestamptz`, state.Deadline).Scan(&late); err != nil {
		return fmt.Errorf("seal fence: read the source's clock: %w", err)
	}
	if late {
		return errors.New("seal fence: its deadline passed before it was sealed, so that writes may have gone through")
	}
	if _, err := conn.Exec(ctx, refuseFunction(f.Name, 0, sealMark)); err != nil {
		return fmt.Errorf("seal fence: %w", err)
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
	s.Raised = s.Triggers > 0 && strings.Contains(body, "raise exception")
	if _, rest, ok := strings.Cut(body, "timestamptz '"); ok {
		text, _, _ := strings.Cut(rest, "'")
		if err := q.QueryRow(ctx, `select $1::text::timestamptz`, text).Scan(&s.Deadline); err != nil {
			return s, fmt.Errorf("read the fence's deadline: %w", err)
		}
	}
	s.Sealed = s.Raised && strings.Contains(body, sealMark)
	return s, nil
}

// Drop opens the fence at once, then takes the triggers away, table by table as each
// has a free moment. Nothing happens when there is none.
func Drop(ctx context.Context, conn *pgx.Conn, name string) error {
	rows, err := conn.Query(ctx, `
select n.nspname::text, c.relname::text from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid join pg_namespace pn on pn.oid = p.pronamespace
  join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where pn.nspname = 'walferry' and p.proname = $1 and t.tgname = $2`, "fence_"+name, triggerName)
	if err != nil {
		return fmt.Errorf("drop fence: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Schema, Name string }])
	if err != nil {
		return fmt.Errorf("drop fence: %w", err)
	}
	if len(tables) > 0 {
		if err := persist(ctx, conn, openFunction(name)); err != nil {
			return fmt.Errorf("open fence: %w", err)
		}
	}
	for _, t := range tables {
		table := catalog.Name(t.Schema, t.Name)
		sql := fmt.Sprintf(`begin; set local statement_timeout = '%dms'; drop trigger if exists %s on %s; commit`, patience.Milliseconds(), triggerName, table)
		if err := persist(ctx, conn, sql); err != nil {
			return fmt.Errorf("drop the fence's trigger on %s: %w", table, err)
		}
	}
	if err := persist(ctx, conn, fmt.Sprintf(`drop function if exists %s()`, function(name))); err != nil {
		return fmt.Errorf("drop the fence's function: %w", err)
	}
	return nil
}
