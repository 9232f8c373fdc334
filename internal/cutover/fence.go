// Package cutover switches the writers of a database from one server to another. A Switch passes
// gates, makes the one server refuse writes (Fence), waits until the other has the last of them,
// carries the sequences over (Carrier), and opens the other: the steps of a Recipe, each of which
// can be undone up to the seal. It knows neither which of the two servers is the old one nor the
// phases of a migration.
package cutover

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/wait"
)

// SQLState is the SQLSTATE of the error that a fenced table raises. Its class is none of
// PostgreSQL's, so that a client can tell it from every other error.
const SQLState = "WF001"

// PassSetting is the setting that lets a session through a fence when it holds its secret,
// Fence.Pass: for the applier of a stream in the other direction.
const PassSetting = "walferry.pass"

// The names of the triggers: for statements, and for each row.
const (
	triggerName    = "walferry_fence"
	rowTriggerName = "walferry_fence_row"
)

// Fence refuses INSERT, UPDATE, DELETE, TRUNCATE, COPY and MERGE on tables, by statement-level
// triggers that are enabled ALWAYS, and what an apply worker writes, which is no statement, by such
// triggers for each row.
type Fence struct {
	Name    string           // of the migration
	Run     string           // of the migrate that raises it; what another one has raised is left alone. Empty: there is no other
	Tables  []catalog.Table  // ordinary and partitioned ones
	Parents []catalog.Parent // that are not migrated; statements on them reach rows of Tables
	Fed     []uint32         // those of Tables, by OID, that a subscription of the source writes to
	Pass    string           // what PassSetting must hold to be let through: a secret. Empty: nobody is let through
	Waits   online.Waits     // told for whom Prepare and Raise wait, when that takes longer than a moment; may be nil
	Sides   sides.Sides      // of the switch that raises it
}

// WaitError means that others kept a step of the fence from completing in the time there was.
type WaitError struct {
	Problem string
	Sides   sides.Sides // of the switch: they are on From
	Holders []online.Holder
	Err     error // the end of that time, by the clock or by the server
}

func (e *WaitError) Error() string { return e.Problem }

func (e *WaitError) Unwrap() error { return e.Err }

// Hint returns what the operator can do.
func (e *WaitError) Hint() string {
	return "on the " + e.Sides.From() + ", " + online.EndHint(e.Holders)
}

// oids returns those of the tables that have a trigger for statements.
func (f Fence) oids() []uint32 {
	oids := make([]uint32, 0, len(f.Tables)+len(f.Parents))
	for i := range f.Tables {
		oids = append(oids, f.Tables[i].OID)
	}
	for _, p := range f.Parents {
		oids = append(oids, p.OID)
	}
	return oids
}

// State is what stands on the source.
type State struct {
	Raised   bool            // its function refuses; a database without tables has no trigger of it
	Sealed   bool            // it has refused everything since it was raised, and has no deadline
	Deadline time.Time       // the fence lets everything pass after it, by the source's clock
	Triggers int             // tables that have one for statements
	on       map[uint32]bool // these tables
	mark     string          // whose it is
}

// Covers reports whether every table has its trigger.
func (s State) Covers(tables []catalog.Table) bool {
	return !slices.ContainsFunc(tables, func(t catalog.Table) bool { return !s.on[t.OID] })
}

func function(name string) string { return "walferry." + catalog.Quote("fence_"+name) }

// pass lets a statement or a row through. A trigger for rows has to return the row: with null it
// would silently not be written.
const pass = `if tg_level = 'ROW' then if tg_op = 'DELETE' then return old; end if; return new; end if; return null;`

// openFunction lets everybody through. Its mark is empty but for the run that is to raise it.
func openFunction(name, mark string) string {
	if mark != "" {
		mark += "\n"
	}
	return fmt.Sprintf("create or replace function %s() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $walferry$ begin %s%s end $walferry$", function(name), mark, pass)
}

// sealMark stands in the function of a sealed fence instead of a deadline.
const sealMark = "-- sealed"

// refuseFunction refuses everything but transactions that had written before, those with a
// transaction id below first, and sessions that have the pass. A fence with a deadline opens on its
// own when walferry is dead: it needs nothing but the source's clock. Its search_path is pinned: it
// runs in the application's sessions, where `<` may be somebody's operator.
func (f Fence) refuseFunction(major int, first int64, deadline string) string {
	open := ""
	switch deadline {
	case "":
	case sealMark:
		open = "  " + sealMark + "\n"
	default:
		open = fmt.Sprintf("  elsif pg_catalog.clock_timestamp() >= timestamptz %s then null;\n", catalog.Literal(deadline))
	}
	moving, there := "moving to another server", "the new database"
	if f.Sides == sides.Back {
		moving, there = "moving back to the old server", "the old database"
	}
	return fmt.Sprintf(`create or replace function %s() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $walferry$
begin
  %s
  if pg_catalog.txid_current_if_assigned() < %d then null;
%s%s  else raise exception 'walferry: %%.%% is fenced: this database is %s', tg_table_schema, tg_table_name
    using errcode = '%s', hint = 'Connect to %s and try again there.';
  end if;
  %s
end
$walferry$`, function(f.Name), runMark(f.Run), first, f.letPass(major), open, moving, SQLState, there, pass)
}

// letPass is the branch of a fence's function for sessions that have the pass. Everybody can read a function, so that
// it has only a digest: SHA-256, or before version 11, which has no function for that, MD5.
func (f Fence) letPass(major int) string {
	if f.Pass == "" {
		return ""
	}
	held := fmt.Sprintf("pg_catalog.current_setting('%s', true)", PassSetting)
	if major < 11 {
		return fmt.Sprintf("  elsif pg_catalog.md5(%s) = '%x' then null;\n", held, md5.Sum([]byte(f.Pass)))
	}
	return fmt.Sprintf("  elsif pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(%s, 'UTF8')), 'hex') = '%x' then null;\n", held, sha256.Sum256([]byte(f.Pass)))
}

// UnfenceSQL is what an operator can run with psql when walferry is gone. The first statement lets
// every writer through and needs no lock of a table; the others drop the triggers of the fence, and
// can be run again if they do not get their locks: nobody waits long behind them.
func UnfenceSQL(name string) string {
	return fmt.Sprintf("%s;\n-- and, when there is time for it:\nset lock_timeout = '200ms';\ndrop function %s() cascade;", openFunction(name, ""), function(name))
}

// complete returns an error unless every table has the triggers that Prepare has put up.
func (f Fence) complete(ctx context.Context, q catalog.Querier) error {
	have, haveRow, err := fenced(ctx, q, f.Name)
	if err != nil {
		return err
	}
	missing := 0
	for _, oid := range f.oids() {
		if !have[oid] || slices.Contains(f.Fed, oid) && !haveRow[oid] {
			missing++
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d tables lack their trigger: somebody has dropped or disabled it", missing, len(f.Tables)+len(f.Parents))
	}
	return nil
}

// Raise closes the fence that Prepare has put up, and returns the position that every write to the
// tables is before, and the moment from which writers were refused. The fence opens on its own
// after life, unless it is sealed.
//
// Closing it is the replacement of a function and takes no lock of a table: nobody waits. Whoever
// takes the lock that a write needs after the replacement has committed sees the new function, as
// taking a lock reads the invalidation messages first (LockRelationOid in lmgr.c). So only those
// who hold such a lock at that moment may have got past the old one, and when each of their
// transactions has ended none is left. It is done twice: the first function lets transactions that
// have written before complete, the second one nobody.
//
// After an error, also of ctx, the fence may be closed or not: open and remove it.
func (f Fence) Raise(ctx context.Context, conn *pgx.Conn, life time.Duration) (closed decoder.LSN, since time.Time, err error) {
	if err := f.complete(ctx, conn); err != nil {
		return 0, since, fmt.Errorf("raise fence: %w", err)
	}
	var deadline string
	var first int64 // this transaction's id: those that have written have a lower one
	err = conn.QueryRow(ctx, `select (clock_timestamp() + $1::float8 * interval '1 second')::text, txid_current()`, life.Seconds()).Scan(&deadline, &first)
	if err != nil {
		return 0, since, fmt.Errorf("raise fence: %w", err)
	}
	since = time.Now()
	for _, step := range []struct {
		write  func(context.Context, *pgx.Conn, int64, string) error
		lowest int64
	}{{f.closeOwn, first}, {f.replace, 0}} {
		if err := step.write(ctx, conn, step.lowest, deadline); err != nil {
			return 0, since, fmt.Errorf("raise fence: %w", err)
		}
		if err := f.waitForWriters(ctx, conn); err != nil {
			return 0, since, err
		}
	}
	if err := conn.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&closed); err != nil {
		return 0, since, fmt.Errorf("raise fence: read position: %w", err)
	}
	return closed, since, nil
}

// writersSQL lists who holds a lock under which rows of the tables can change. A
// prepared transaction has no process.
const writersSQL = `
select l.virtualtransaction, ` + online.HolderColumns + `
  from pg_locks l left join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.granted and l.relation = any($1::oid[])
   and l.database = (select oid from pg_database where datname = current_database())
   and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   and l.pid is distinct from pg_backend_pid()
 group by l.virtualtransaction, l.pid`

// writer is a transaction that can have changed a table.
type writer struct {
	Transaction string
	online.Holder
}

func writers(ctx context.Context, conn *pgx.Conn, oids []uint32) (list []writer, err error) {
	rows, err := conn.Query(ctx, writersSQL, oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (w writer, err error) {
		return w, row.Scan(&w.Transaction, &w.PID, &w.User, &w.Application, &w.Seconds, &w.State, &w.Query)
	})
}

// waitForWriters waits until the transactions that can have changed the tables when it was called
// have ended.
func (f Fence) waitForWriters(ctx context.Context, conn *pgx.Conn) error {
	before, err := writers(ctx, conn, f.oids())
	if err != nil {
		return fmt.Errorf("raise fence: list the transactions that write: %w", err)
	}
	told := false
	began, pauses := time.Now(), wait.Pauses{First: time.Millisecond, Longest: 20 * time.Millisecond}
	for n := 0; len(before) > 0; n++ {
		now, err := writers(ctx, conn, f.oids())
		if err == nil {
			var still []writer // as they are now: older
			for _, later := range now {
				if slices.ContainsFunc(before, func(w writer) bool { return w.Transaction == later.Transaction }) {
					still = append(still, later)
				}
			}
			if before = still; len(before) == 0 {
				return nil
			}
			if f.Waits != nil && time.Since(began) > time.Second {
				f.Waits(online.Wait{For: "the fence is closed, and waits for transactions that wrote before it: ", Holders: holdersOf(before)}, !told)
				told = true
			}
			if err = wait.Sleep(ctx, pauses.After(n)); err == nil {
				continue
			}
		}
		holders := holdersOf(before)
		waited := &WaitError{"raise fence: wait for transactions that wrote before it, of " + online.List(holders), f.Sides, holders, err}
		if ctx.Err() == nil {
			return fmt.Errorf("%s: %w", waited.Problem, err)
		}
		return waited
	}
	return nil
}

func holdersOf(list []writer) (holders []online.Holder) {
	for _, w := range list {
		holders = append(holders, w.Holder)
	}
	return holders
}

// Seal removes the deadline. It fails if the deadline has passed by then, as writes may have gone
// through. With nil, the source has refused every write since Raise and will until the fence is
// dropped.
func (f Fence) Seal(ctx context.Context, conn *pgx.Conn) error {
	state, err := Look(ctx, conn, f.Name)
	if err != nil {
		return err
	}
	if !state.Raised || state.mark != runMark(f.Run) {
		return fmt.Errorf("seal fence: %w", errNotUp)
	}
	if err := f.complete(ctx, conn); err != nil {
		return fmt.Errorf("seal fence: %w", err)
	}
	if state.Sealed {
		return nil
	}
	// Two steps: if walferry dies here, the server may carry out the first one after the deadline,
	// and nobody is left to see that it was late. So a fence without a deadline shows nothing; the
	// mark does, which comes after the look at the clock, when the fence can no longer open.
	if err := f.replace(ctx, conn, 0, ""); err != nil {
		return fmt.Errorf("seal fence: %w", err)
	}
	var late bool
	if err := conn.QueryRow(ctx, `select clock_timestamp() >= $1::timestamptz`, state.Deadline).Scan(&late); err != nil {
		return fmt.Errorf("seal fence: read the %s's clock: %w", f.Sides.From(), err)
	}
	if late {
		return errors.New("seal fence: its deadline passed before it was sealed, so that writes may have gone through")
	}
	if err := f.replace(ctx, conn, 0, sealMark); err != nil {
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
                  where n.nspname = 'walferry' and p.proname = $1), '')`, "fence_"+name).Scan(&body)
	if err != nil {
		return s, fmt.Errorf("read the fence's state: %w", err)
	}
	if s.on, _, err = fenced(ctx, q, name); err != nil {
		return s, err
	}
	s.Triggers = len(s.on)
	s.Raised = strings.Contains(body, "raise exception")
	s.mark = markIn(body)
	if _, rest, ok := strings.Cut(body, "timestamptz '"); ok {
		text, _, _ := strings.Cut(rest, "'")
		if err := q.QueryRow(ctx, `select $1::text::timestamptz`, text).Scan(&s.Deadline); err != nil {
			return s, fmt.Errorf("read the fence's deadline: %w", err)
		}
	}
	s.Sealed = s.Raised && strings.Contains(body, sealMark)
	return s, nil
}

// Open lets everybody through at once: it takes no lock of a table. Nothing happens if there is no
// fence. With a run it leaves the fence of another one closed, and returns ErrOtherRun.
func Open(ctx context.Context, conn *pgx.Conn, name, run string) error {
	triggers, err := triggers(ctx, conn, name)
	if err != nil {
		return fmt.Errorf("open fence: %w", err)
	}
	if len(triggers) == 0 {
		return nil
	}
	if err := online.Exec(ctx, conn, unlessOthers(name, run, openFunction(name, ""))); err != nil {
		return fmt.Errorf("open fence: %w", ofOthers(err))
	}
	return nil
}

// trigger is one of the fence's.
type trigger struct{ Schema, Table, Name, Kind string }

func (t trigger) table() string { return catalog.Name{Schema: t.Schema, Name: t.Table}.String() }

func triggers(ctx context.Context, q catalog.Querier, name string) ([]trigger, error) {
	rows, err := q.Query(ctx, `
select n.nspname::text, c.relname::text, t.tgname::text, c.relkind::text from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid join pg_namespace pn on pn.oid = p.pronamespace
  join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where pn.nspname = 'walferry' and p.proname = $1 and t.tgname in ($2, $3)`, "fence_"+name, triggerName, rowTriggerName)
	if err != nil {
		return nil, fmt.Errorf("list the fence's triggers: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[trigger])
	if err != nil {
		return nil, fmt.Errorf("list the fence's triggers: %w", err)
	}
	return list, nil
}

// Left is a trigger of an open fence that could not be dropped yet.
type Left struct {
	Table string
	Why   string // who has the table, or what refused
	Err   error  // what refused; nil: the table is in use
}

// ListLeft joins what is left for use in a sentence.
func ListLeft(left []Left) string {
	var text []string
	for _, l := range left {
		text = append(text, fmt.Sprintf("on %s (%s)", l.Table, l.Why))
	}
	return catalog.List(text)
}

// Remove drops the triggers of an open fence, and its function. Each needs its table for a moment;
// Remove goes round those that are in use, with growing pauses, until ctx ends, and returns what is
// left then. That does no harm: it lets everybody through.
func Remove(ctx context.Context, conn *pgx.Conn, name string) ([]Left, error) {
	clean, cancel := wait.Lingering(ctx)
	defer cancel()
	todo, err := triggers(clean, conn, name)
	if err != nil {
		return nil, fmt.Errorf("drop fence: %w", err)
	}
	var refused []Left
	for n := 0; len(todo) > 0; n++ {
		var busy []trigger
		for _, t := range todo {
			table := t.table()
			sql := fmt.Sprintf(`drop trigger if exists %s on %s`, catalog.Quote(t.Name), table)
			if n >= 3 && t.Kind != "f" {
				err = online.TryPastVacuum(clean, conn, table, sql)
			} else {
				err = online.Try(clean, conn, sql)
			}
			switch {
			case err == nil:
			case conn.IsClosed():
				return nil, fmt.Errorf("drop the fence's trigger on %s: %w", table, err)
			case online.Busy(err):
				busy = append(busy, t)
			default:
				refused = append(refused, Left{table, err.Error(), err})
			}
		}
		if todo = busy; len(todo) > 0 && online.Pause(ctx, n) != nil {
			break
		}
	}
	for _, t := range todo {
		holders, err := online.Holders(clean, conn, t.table())
		if err != nil {
			return nil, err
		}
		refused = append(refused, Left{Table: t.table(), Why: online.List(holders)})
	}
	if len(refused) > 0 {
		return refused, nil
	}
	if err := online.Run(clean, conn, "", fmt.Sprintf(`drop function if exists %s()`, function(name))); err != nil {
		return nil, fmt.Errorf("drop the fence's function: %w", err)
	}
	return nil, nil
}
