package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// asking is a cutover that is asked for beside the test.
type asking struct {
	result *migration.CutoverResult
	err    error
	done   chan struct{}
}

// askBeside asks for a cutover with some time, and returns when a step of it was reported.
func (m *moving) askBeside(timeout time.Duration, step string) *asking {
	m.t.Helper()
	return m.askFor(migration.Cutover, timeout, step)
}

// askFor is askBeside, for a switch in either direction.
func (m *moving) askFor(what func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error), timeout time.Duration, step string) *asking {
	m.t.Helper()
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, timeout
	a := &asking{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.result, a.err = what(context.Background(), c, nil)
	}()
	m.t.Cleanup(func() { <-a.done })
	m.eventually("the step "+step, func() bool {
		select {
		case <-a.done:
			m.t.Fatalf("the switch ended before %q: %+v, %v", step, a.result, a.err)
		default:
		}
		return one[bool](m.t, m.Target, fmt.Sprintf(`select exists(select from walferry.request, unnest(steps) s where s like '%s%%' and answered_at is null)`, step))
	})
	return a
}

// blocked waits until a statement of migrate waits for a lock of ours.
func (m *moving) blocked(dsn, statement string) {
	m.t.Helper()
	m.eventually("a statement that waits: "+statement, func() bool {
		return one[bool](m.t, dsn, fmt.Sprintf(`select exists(select from pg_stat_activity where application_name ~ '^walferry %s' and wait_event_type = 'Lock' and query ~* '%s')`, m.Name, statement))
	})
}

// quietHeld keeps a cutover, once its way back is armed, from raising the fence.
func (m *moving) quietHeld() *held { return m.quietHeldOn(m.Source) }

// quietHeldOn is quietHeld, for the switch from a server.
func (m *moving) quietHeldOn(dsn string) *held {
	m.t.Helper()
	h := hold(m.t, dsn, `select txid_current()`)
	m.eventually("an old transaction", func() bool {
		return one[bool](m.t, dsn, `select exists(select from pg_stat_activity where backend_xid is not null and datname = current_database()
  and xact_start < clock_timestamp() - interval '1 second' and query ~ 'select txid_current')`)
	})
	return h
}

func newFallBack(t *testing.T, label string, from, to int, mode migration.FallBackMode) (*moving, *run) {
	t.Helper()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, twoWays)
	m := newMoving(t, label, source, target)
	m.FallBack, m.InsertOnly = mode, []string{"public.journal"}
	r := m.start()
	r.waitFor(migration.Following)
	return m, r
}

// What somebody writes to the new server before it is opened is a gate, with table and transaction, and everything is as
// before. What commits there from the position on that the way back begins at comes to the old server: also before
// the opening, and of a transaction that was begun before.
func TestFallBack_Strays(t *testing.T) {
	t.Parallel()
	m, r := newFallBack(t, "strays", 13, 17, migration.FallBackRequire)
	back := func() string {
		return one[string](t, m.Target, `select (select count(*) from pg_replication_slots where slot_name = 'walferry_`+m.Name+`_back') || ' slots, ' ||
 (select count(*) from pg_publication where pubname like 'walferry_`+m.Name+`_back%') || ' publications'`)
	}

	quiet := m.quietHeld()
	asked := m.askBeside(patience, "a way back is armed")
	xid := one[string](t, m.Target, `insert into t (id, v) values (1000000, 'stray') returning (txid_current() & ((1::int8 << 32) - 1))::text`)
	later := hold(t, m.Target, `insert into t (id, v) values (1000001, 'stray, too')`)
	quiet.commit()
	<-asked.done
	if !fail.Is(asked.err, fail.Gate) || !strings.Contains(asked.err.Error(), `transaction `+xid) || !strings.Contains(asked.err.Error(), `"public"."t"`) {
		t.Errorf("the cutover ended with %v; want a gate that names transaction %s and table t", asked.err, xid)
	}
	later.rollback()
	m.eventually("phase following", func() bool {
		return one[string](t, m.Target, `select phase from walferry.migration where name = '`+m.Name+`'`) == "following"
	})
	refuses(t, m.Source, "old server", false)
	if got := back(); got != "0 slots, 0 publications" {
		t.Errorf("left of the way back: %s", got)
	}
	pgtest.Exec(t, m.Target, `delete from t where id = 1000000`)

	quiet = m.quietHeld()
	asked = m.askBeside(patience, "a way back is armed")
	early := hold(t, m.Target, `insert into t (id, v) values (1000002, 'begun before')`)
	sequence := hold(t, m.Target, `alter sequence drawn cache 7`)
	quiet.commit()
	m.blocked(m.Target, `setval`)
	function := hold(t, m.Source, `lock table pg_proc in share mode`)
	sequence.rollback()
	m.blocked(m.Source, `raise exception`) // the seal: the way back has begun
	early.commit()
	pgtest.Exec(t, m.Target, `insert into t (id, v) values (1000003, 'before the opening')`)
	last := hold(t, m.Target, `insert into t (id, v) values (1000004, 'begun before the opening')`)
	function.rollback()
	<-asked.done
	if asked.err != nil {
		t.Fatal(asked.err)
	}
	r.waitFor(migration.Switched)
	last.commit()
	m.eventually("all three on the old server", func() bool { return one[int](t, m.Source, `select count(*) from t where id > 1000000`) == 3 })
	if _, err := migration.Finish(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	m.cleanup()
}

// A transaction that writes on the new server keeps the slot of the way back from being made. Nobody is refused meanwhile, and
// after a quarter of the time the cutover goes on without a way back, where that may be, and says so.
func TestFallBack_Blocked(t *testing.T) {
	t.Parallel()
	m, r := newFallBack(t, "blocked", 13, 17, migration.FallBackAuto)
	writer := hold(t, m.Target, `select txid_current()`)
	defer writer.rollback()
	asked := m.askBeside(40*time.Second, "to un-fence by hand")
	refuses(t, m.Source, "old server", false)
	<-asked.done
	if asked.err != nil {
		t.Fatal(asked.err)
	}
	w := asked.result.WayBack
	if w == nil || w.From != nil || w.None == "" || w.ArmedMS > 20_000 {
		t.Errorf("way back: %+v", w)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	if got := one[int](t, m.Target, `select count(*) from pg_replication_slots where database = current_database()`); got != 0 {
		t.Errorf("%d slots are left on the new server", got)
	}
	writer.rollback()
	m.cleanup()
}

// A migration that went over and back is given up: the old server stays the database, and nothing is left on either.
func TestFallBack_Abort(t *testing.T) {
	t.Parallel()
	m, r := newFallBack(t, "abort_back", 15, 18, migration.FallBackRequire)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	if err := migration.Abort(context.Background(), m.Config); !fail.Is(err, fail.Gate) {
		t.Errorf("abort while the new server is the database: %v, want a gate", err)
	}
	pgtest.Exec(t, m.Target, `insert into t (v) values ('new')`)
	m.asked(migration.Fallback)
	r.waitFor(migration.Following)
	pgtest.Exec(t, m.Source, `insert into t (v) values ('back')`)
	if err := migration.Abort(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := r.end(); err == nil {
		t.Error("migrate ended without an error")
	}
	refuses(t, m.Source, "old server", false)
	if got := one[int](t, m.Source, `select count(*) from t where v in ('new', 'back')`); got != 2 {
		t.Errorf("the old server has %d of the two rows", got)
	}
	m.cleanup()
}

// A run that died has left an armed way back, whose slot keeps WAL on the new server. The next one removes it, also if no
// way back is wanted any more.
func TestFallBack_GivenUp(t *testing.T) {
	t.Parallel()
	m, r := newFallBack(t, "given_up", 15, 18, migration.FallBackRequire)
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, m.Target, fmt.Sprintf(`create publication "walferry_%[1]s_back" for table walferry.progress`, m.Name))
	pgtest.Exec(t, m.Target, fmt.Sprintf(`select pg_create_logical_replication_slot('walferry_%s_back', 'pgoutput')`, m.Name))
	m.FallBack = migration.NoFallBack
	r = m.start()
	m.eventually("the end of the slot", func() bool {
		return one[int](t, m.Target, `select count(*) from pg_replication_slots where database = current_database()`) == 0
	})
	m.cutover(r)
	m.cleanup()
}
