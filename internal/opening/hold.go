package opening

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// Target is a target that is not open yet.
type Target struct {
	Link      *session.Link
	DSN       string
	Migration string
	// Tables returns the tables whose rows are copied and applied, as the source has them. It is
	// called whenever they are needed.
	Tables func() []catalog.Table
	Logger *slog.Logger
}

// Hold disables, until the target opens, what would act on the rows that are copied and applied:
// triggers and rules that are enabled ALWAYS or REPLICA and, if the role may not set
// session_replication_role, every other trigger of a user and every rule. What each was is recorded
// in the transaction that disables it. It returns those that were not held before.
//
// Partitions' copies of their parent's triggers are held one by one, like any others: their state
// may differ from the parent's, and the rows are written to the partitions.
func (t *Target) Hold(ctx context.Context) (fresh []catalog.Firing, err error) {
	may, err := session.MaySetReplicaRole(ctx, t.Link)
	if err != nil {
		return nil, err
	}
	err = t.Link.Do(ctx, func(conn *pgx.Conn) error {
		fresh, err = catalog.FiringOn(ctx, conn, t.Tables(), may)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for what would act on the rows that are applied: %w", err)
	}
	for _, f := range fresh {
		if !f.Holding {
			return nil, &fail.Error{Kind: fail.Run, Problem: fmt.Sprintf("%s acts on the rows that are copied and applied, and this role may not disable it until the cutover", f.Action), Advice: "run as the owner of the table, or as a superuser (who alone may disable triggers of foreign keys and, before version 13, the copies of a trigger that partitions have); or: " + f.Enable("D")}
		}
	}
	if err := t.hold(ctx, fresh); err != nil {
		return nil, err
	}
	if len(fresh) > 0 {
		t.Logger.Info("triggers and rules are held until the cutover", "count", len(fresh))
	}
	return fresh, nil
}

// hold disables actions, one table at a time, and records what each was in the transaction that
// disables it.
func (t *Target) hold(ctx context.Context, actions []catalog.Firing) error {
	for some := range byTable(actions) {
		if err := t.disable(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// byTable yields a list's elements, one table at a time.
func byTable(list []catalog.Firing) func(yield func([]catalog.Firing) bool) {
	return func(yield func([]catalog.Firing) bool) {
		for len(list) > 0 {
			n := 1
			for n < len(list) && list[n].Schema == list[0].Schema && list[n].Table == list[0].Table {
				n++
			}
			if !yield(list[:n]) {
				return
			}
			list = list[n:]
		}
	}
}

// disable disables actions of one table.
func (t *Target) disable(ctx context.Context, actions []catalog.Firing) error {
	waits := func(err error) {
		t.Logger.Warn("waiting for a lock of the target, to disable triggers and rules until the cutover", "table", catalog.Name{Schema: actions[0].Schema, Name: actions[0].Table}.String(), "reason", err)
	}
	err := t.Transaction(ctx, 0, waits, func(ctx context.Context, tx pgx.Tx) error {
		list, err := Recorded(ctx, tx, t.Migration)
		if err != nil {
			return err
		}
		for _, a := range actions {
			h := Held{Action: a.Action}
			if a.Kind == "trigger" {
				if h.Known, err = catalog.CopiesOf(ctx, tx, a.OID); err != nil {
					return err
				}
			}
			// What is held already, and was enabled by somebody since, gets back the state it had
			// first.
			if at := slices.IndexFunc(list, func(l Held) bool { return l.Kind == h.Kind && l.OID == h.OID }); at < 0 {
				list = append(list, h)
			}
			if _, err := tx.Exec(ctx, a.Enable("D")); err != nil {
				return fmt.Errorf("%s: %w", a.Enable("D"), err)
			}
		}
		return record(ctx, tx, t.Migration, list)
	})
	if err != nil {
		return fmt.Errorf("disable triggers and rules until the cutover: %w", err)
	}
	return nil
}

// Ruled returns the tables with rules that are held, whose readers the opening has to wait for.
func (t *Target) Ruled(ctx context.Context) (map[string]bool, error) {
	ruled := map[string]bool{}
	return ruled, t.Link.Do(ctx, func(conn *pgx.Conn) error {
		list, err := Recorded(ctx, conn, t.Migration)
		if err != nil {
			return err
		}
		statements, _, err := opens(ctx, conn, list)
		for _, s := range statements {
			if s.Exclusive {
				ruled[catalog.Name{Schema: s.Schema, Name: s.Table}.String()] = true
			}
		}
		return err
	})
}

// Transaction runs f in a transaction of its own on the target and commits it. A lock that is not
// free within a moment is given up and asked for again, so that nobody has to queue behind us for
// long. It keeps trying for the time given, or with 0 until ctx ends. waits, which may be nil, is
// told.
func (t *Target) Transaction(ctx context.Context, patience time.Duration, waits func(error), f func(context.Context, pgx.Tx) error) error {
	began, pauses := time.Now(), wait.Pauses{First: 750 * time.Millisecond, Random: true}
	for told := false; ; {
		err := t.Link.Do(ctx, func(conn *pgx.Conn) error {
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, lockTimeout); err != nil {
					return err
				}
				return f(ctx, tx)
			})
		})
		if err == nil || ctx.Err() != nil || !catalog.LostLock(err) || patience > 0 && time.Since(began) > patience {
			return err
		}
		if !told && waits != nil {
			waits(err)
		}
		told = true
		if wait.Sleep(ctx, pauses.After(0)) != nil {
			return err
		}
	}
}

// lockTimeout is longer than deadlock_timeout, after which an autovacuum gives way to us.
const lockTimeout = `select set_config('lock_timeout', (least(setting::int, 5000) + 200)::text, true) from pg_settings where name = 'deadlock_timeout'`

// blockers names who holds locks of tables of the target that enabling a trigger, or with exclusive
// a rule, waits for.
func (t *Target) blockers(ctx context.Context, table string, exclusive bool) string {
	type blocker struct {
		PID               int32
		User, Application string
		State             string
		Seconds           int64
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // also when the time for the lock is over
	defer cancel()
	var found []blocker
	err := t.Link.Do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select distinct coalesce(l.pid, 0), coalesce(a.usename::text, ''), coalesce(nullif(a.application_name, ''), a.backend_type, 'a prepared transaction'), coalesce(a.state, ''),
       coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::int8
  from pg_locks l left join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.granted and l.relation = to_regclass($1)
   and l.database = (select oid from pg_database where datname = current_database()) and l.pid is distinct from pg_backend_pid()
   and ($2 or l.mode not in ('AccessShareLock', 'RowShareLock'))`, table, exclusive)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[blocker])
		return err
	})
	if err != nil || len(found) == 0 {
		return "nobody, by now"
	}
	var who []string
	for _, b := range found {
		who = append(who, fmt.Sprintf("pid %d (%s, %q, %s for %d s)", b.PID, b.User, b.Application, b.State, b.Seconds))
	}
	return catalog.List(who)
}
