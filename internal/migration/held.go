package migration

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// held is an element of walferry.migration.on_open: a trigger or rule of the target that is
// disabled until the opening.
type held struct {
	catalog.Action          // as it was; State is what it gets back
	Known          []uint32 `json:"known,omitempty"` // the copies of a trigger that partitions had then
}

// parseHeld reads on_open.
func parseHeld(elements []string) (list []held, err error) {
	for _, text := range elements {
		var h held
		if old := oldHeld.FindStringSubmatch(text); old != nil {
			h.Schema, h.Table, h.Name = unquoted(old[1]), unquoted(old[2]), unquoted(old[5])
			h.State, h.Kind = map[string]string{"always": "A", "replica": "R", "": "O"}[old[3]], old[4]
		} else if err := json.Unmarshal([]byte(text), &h); err != nil {
			return nil, fmt.Errorf("read the held triggers: %w", err)
		}
		list = append(list, h)
	}
	return list, nil
}

// oldHeld is what older versions have recorded: the statement that enables a trigger or rule.
var oldHeld = regexp.MustCompile(`^alter table ("(?:[^"]|"")+")\.("(?:[^"]|"")+") enable (always|replica|) (trigger|rule) (.+)$`)

func unquoted(name string) string {
	if inner, ok := strings.CutPrefix(name, `"`); ok {
		return strings.ReplaceAll(strings.TrimSuffix(inner, `"`), `""`, `"`)
	}
	return name
}

func heldTexts(list []held) ([]string, error) {
	texts := make([]string, len(list))
	for i, h := range list {
		text, err := json.Marshal(h)
		if err != nil {
			return nil, err
		}
		texts[i] = string(text)
	}
	return texts, nil
}

func readDisabled(ctx context.Context, q catalog.Querier, name string) ([]held, error) {
	elements, err := state.OnOpen(ctx, q, name)
	if err != nil {
		return nil, err
	}
	return parseHeld(elements)
}

func writeHeld(ctx context.Context, tx pgx.Tx, name string, list []held) error {
	texts, err := heldTexts(list)
	if err != nil {
		return err
	}
	return state.PutOnOpen(ctx, tx, name, texts)
}

// holdTriggers disables, until the target opens, what would act on the rows that are copied
// and applied: triggers and rules that are enabled ALWAYS or REPLICA and, where the
// role may not set session_replication_role, every other trigger of a user and every rule. What each was is
// recorded in the transaction that disables it. It returns those that were not held before.
//
// Partitions' copies of their parent's triggers are held one by one, like any others: their state
// may be another than the parent's, and the rows are written to the partitions.
func (r *runner) holdTriggers(ctx context.Context) (fresh []catalog.Firing, err error) {
	may, err := r.replicaRole(ctx)
	if err != nil {
		return nil, err
	}
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		fresh, err = catalog.FiringOn(ctx, conn, r.tables, may)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for what would act on the rows that are applied: %w", err)
	}
	for _, f := range fresh {
		if !f.Holding {
			return nil, &RunError{Problem: fmt.Sprintf("%s acts on the rows that are copied and applied, and this role may not disable it until the cutover", f.Action), Advice: "run as the owner of the table, or as a superuser (who alone may disable triggers of foreign keys and, before version 13, the copies of a trigger that partitions have); or: " + f.Enable("D")}
		}
	}
	for some := range byTable(fresh) {
		if err := r.disable(ctx, some); err != nil {
			return nil, err
		}
	}
	if len(fresh) > 0 {
		r.c.Logger.Info("triggers and rules are held until the cutover", "count", len(fresh))
	}
	return fresh, nil
}

// byTable yields the parts of a list that are of one table.
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
func (r *runner) disable(ctx context.Context, actions []catalog.Firing) error {
	waits := func(err error) {
		r.c.Logger.Warn("waiting for a lock of the target, to disable triggers and rules until the cutover", "table", catalog.Name{Schema: actions[0].Schema, Name: actions[0].Table}.String(), "reason", err)
	}
	err := r.onTarget(ctx, 0, waits, func(ctx context.Context, tx pgx.Tx) error {
		list, err := readDisabled(ctx, tx, r.c.Name)
		if err != nil {
			return err
		}
		for _, a := range actions {
			h := held{Action: a.Action}
			if a.Kind == "trigger" {
				if h.Known, err = catalog.CopiesOf(ctx, tx, a.OID); err != nil {
					return err
				}
			}
			// What is held already, and was enabled by somebody since, gets back what it had first.
			if at := slices.IndexFunc(list, func(l held) bool { return l.Kind == h.Kind && l.OID == h.OID }); at < 0 {
				list = append(list, h)
			}
			if _, err := tx.Exec(ctx, a.Enable("D")); err != nil {
				return fmt.Errorf("%s: %w", a.Enable("D"), err)
			}
		}
		return writeHeld(ctx, tx, r.c.Name, list)
	})
	if err != nil {
		return fmt.Errorf("disable triggers and rules until the cutover: %w", err)
	}
	return nil
}

// opens are the statements that give every held action its state back, in an order in which they
// can be run, and what has to be left out because the target does not have it any more.
func opens(ctx context.Context, q catalog.Querier, list []held) (sql []openStatement, gone []held, err error) {
	var actions []catalog.Action
	var known []uint32
	for _, h := range list {
		actions, known = append(actions, h.Action), append(append(known, h.Known...), h.OID)
	}
	if len(actions) == 0 {
		return nil, nil, nil
	}
	now, err := catalog.ActionsNow(ctx, q, actions)
	if err != nil {
		return nil, nil, err
	}
	var triggers []catalog.Action
	for i, h := range list {
		a, ok := now[i]
		if !ok {
			gone = append(gone, h)
			continue
		}
		if a.Kind == "trigger" {
			was := a
			was.State = h.State
			triggers = append(triggers, was)
		}
		sql = append(sql, openStatement{Schema: a.Schema, Table: a.Table, SQL: a.Enable(h.State), held: h, exclusive: a.Kind == "rule"})
	}
	later, err := catalog.LaterCopies(ctx, q, triggers, known)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range later {
		sql = append(sql, openStatement{Schema: a.Schema, Table: a.Table, SQL: a.Enable(a.State), held: held{Action: a}})
	}
	slices.SortStableFunc(sql, func(a, b openStatement) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Table, b.Table))
	})
	return sql, gone, nil
}

// openStatement enables one action of the target.
type openStatement struct {
	Schema, Table string
	SQL           string
	held          held
	exclusive     bool // it has to wait for readers, too
}

// tablesWithHeldRules are those whose readers the opening has to wait for.
func (r *runner) tablesWithHeldRules(ctx context.Context) (map[string]bool, error) {
	ruled := map[string]bool{}
	return ruled, r.target.Do(ctx, func(conn *pgx.Conn) error {
		list, err := readDisabled(ctx, conn, r.c.Name)
		if err != nil {
			return err
		}
		statements, _, err := opens(ctx, conn, list)
		for _, s := range statements {
			if s.exclusive {
				ruled[catalog.Name{Schema: s.Schema, Name: s.Table}.String()] = true
			}
		}
		return err
	})
}

// onTarget runs f in a transaction of its own on the target and commits it. A lock that is not
// free in a moment is let go and asked for again, so that nobody has to queue behind us for long;
// this goes on for the time given, or with 0 until ctx ends. waits, which may be nil, is told of it.
func (r *runner) onTarget(ctx context.Context, patience time.Duration, waits func(error), f func(context.Context, pgx.Tx) error) error {
	began, pauses := time.Now(), wait.Pauses{First: 750 * time.Millisecond, Random: true}
	for told := false; ; {
		err := r.target.Do(ctx, func(conn *pgx.Conn) error {
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

// blockers names who holds locks of tables of the target that enabling a trigger, or with exclusive a rule, waits for.
func (r *runner) blockers(ctx context.Context, table string, exclusive bool) string {
	type blocker struct {
		PID               int32
		User, Application string
		State             string
		Seconds           int64
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // also when the time for the lock is over
	defer cancel()
	var found []blocker
	err := r.target.Do(ctx, func(conn *pgx.Conn) error {
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
	return list(who)
}

// openingGate tries what the opening of the target will run, and takes it back: every held
// trigger and rule is there, may be enabled, and its lock is to be had. What has gone is told and
// will be left out. What acts on applied rows although it was not to is held again, and the cutover refused:
// it may have changed the target.
func (r *runner) openingGate(ctx context.Context, o CutoverOptions, step func(string)) error {
	fresh, err := r.holdTriggers(ctx)
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		var which []string
		for _, f := range fresh {
			which = append(which, f.Action.String())
		}
		return &GateError{Problem: "on the target, what was to be disabled until the cutover was enabled or created meanwhile, and has acted on rows that were applied: " + list(which), Advice: "it is disabled now, and will be enabled as it was when the target opens; see by `walferry verify` whether it has changed anything, and ask again"}

	}
	var statements []openStatement
	var gone []held
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		list, err := readDisabled(ctx, conn, r.c.Name)
		if err == nil {
			statements, gone, err = opens(ctx, conn, list)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, h := range gone {
		step(fmt.Sprintf("the target has no %s any more, which was to be enabled: it is left out", h))
	}
	deadline := time.Now().Add(o.Timeout / 4)
	for len(statements) > 0 {
		n := 1
		for n < len(statements) && statements[n].Schema == statements[0].Schema && statements[n].Table == statements[0].Table {
			n++
		}
		err := r.tryOpen(ctx, time.Until(deadline), statements[:n], step)
		if err != nil {
			return err
		}
		statements = statements[n:]
	}
	return nil
}

var errTried = errors.New("it works")

// tryOpen tries the statements of one table.
func (r *runner) tryOpen(ctx context.Context, patience time.Duration, statements []openStatement, step func(string)) error {
	first := statements[0]
	table := catalog.Name{Schema: first.Schema, Name: first.Table}.String()
	exclusive := slices.ContainsFunc(statements, func(s openStatement) bool { return s.exclusive })
	waits := func(error) {
		step(fmt.Sprintf("waiting for a lock of %s on the target, which its opening needs; held by %s", table, r.blockers(ctx, table, exclusive)))
	}
	err := r.onTarget(ctx, max(patience, time.Millisecond), waits, func(ctx context.Context, tx pgx.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s.SQL); err != nil {
				return fmt.Errorf("%s: %w", s.SQL, err)
			}
		}
		return errTried
	})
	switch {
	case errors.Is(err, errTried):
		return nil
	case ctx.Err() != nil || !catalog.LostLock(err):
		return fmt.Errorf("try what the opening of the target needs: %w", err)
	}
	return &GateError{Problem: fmt.Sprintf("%s of the target cannot be locked, which its opening needs, to run %s; held by %s", table, first.SQL, r.blockers(ctx, table, exclusive)), Advice: "end those transactions on the target (pg_terminate_backend), and ask again"}
}
