package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// asker is a cutover that was asked for in the background.
type asker struct {
	takeBack context.CancelFunc
	done     chan struct{}
	steps    []string // to be read once it is done
	err      error
}

func (m *moving) ask(c migration.Config) *asker {
	ctx, cancel := context.WithCancelCause(context.Background())
	a := &asker{takeBack: func() { cancel(errors.New("interrupted")) }, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		_, a.err = migration.Cutover(ctx, c, func(step string) { a.steps = append(a.steps, step) })
	}()
	m.t.Cleanup(func() { a.takeBack(); <-a.done })
	return a
}

// gate waits for the end, which must be that everything is as before.
func (a *asker) gate(t *testing.T, words string) {
	t.Helper()
	select {
	case <-a.done:
	case <-time.After(patience):
		t.Fatal("the asker has not ended")
	}
	gate := fail.Find(a.err, fail.Gate)
	if gate == nil || !strings.Contains(gate.Problem, words) {
		t.Fatalf("the asker ended with %v, want a gate with %q", a.err, words)
	}
}

// Somebody interrupts a cutover that waits for a writer: it is taken back, on the source too, and
// does not happen when the writer has ended.
func TestCutover_TakenBack(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key); create table u (id int primary key)`)
	m := newMoving(t, "back", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	fence := newLine(t, source)
	said := func(sql string) func() bool {
		return func() bool { got, _ := fence.ask(sql); return got == "t" }
	}
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), source)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		return conn
	}
	idle, writer, closing := connect(), connect(), connect()
	line := func(conn *pgx.Conn, sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, inside := range []bool{false, true} {
		c := m.Config
		c.Cut.MaxLag, c.Cut.Timeout = patience, patience
		var a *asker
		if inside {
			line(idle, `begin`)
			line(idle, `select txid_current()`)
			m.eventually("it to be one that is waited for", said(`select xact_start < clock_timestamp() - interval '2 seconds' from pg_stat_activity where pid = `+fmt.Sprint(idle.PgConn().PID())))
			a = m.ask(c)
			m.eventually("the fence's triggers", said(`select count(*) = 2 from pg_trigger where tgname = 'walferry_fence'`))
			// The writer comes when the fence is about to be closed: with an old one about it is not.
			line(closing, `begin`)
			line(closing, `lock table pg_proc in share mode`)
			line(idle, `commit`)
			m.eventually("the fence to be closed", said(`select exists(select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query ~ 'raise exception')`))
		}
		line(writer, `begin`)
		line(writer, `insert into t select coalesce(max(id), 0) + 1 from t`)
		if inside {
			line(closing, `rollback`)
			m.eventually("the fence to refuse", said(`select prosrc like '%raise exception%' from pg_proc where proname = 'fence_`+m.Name+`'`))
		} else {
			a = m.ask(c)
			m.eventually("the cutover to have begun", func() bool {
				return one[int](t, target, `select count(*) from walferry.request where kind = 'cutover' and answered_at is null and steps <> '{}'`) > 0
			})
		}
		a.takeBack()
		a.gate(t, "taken back")
		line(writer, `commit`)
		st, err := migration.ReadStatus(context.Background(), m.Config)
		if err != nil || st.Phase != migration.Following || st.Cutover.FencedAt != nil {
			t.Errorf("status is %+v, %v", st, err)
		}
		pgtest.Exec(t, source, `insert into u select coalesce(max(id), 0) + 1 from u`)
	}
	m.caughtUp(r)
	m.cutover(r)
	sameRows(t, source, target)
	m.cleanup()
}

// A cutover that is asked for during the copy is answered at once, with how far the copy is; with
// Wait it waits until somebody takes it back, or until the migration follows.
func TestCutover_BeforeItFollows(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key); insert into t select generate_series(1, 1000)`)
	m := newMoving(t, "early", source, target)
	lock, err := pgx.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close(context.Background())
	writer, err := lock.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Exec(t.Context(), `select txid_current()`); err != nil { // the slot waits for it
		t.Fatal(err)
	}
	r := m.start()
	m.eventually("the migration to be recorded", func() bool {
		st, err := migration.ReadStatus(context.Background(), m.Config)
		return err == nil && st.Phase == migration.New
	})
	m.ask(m.Config).gate(t, "does not follow yet")
	c := m.Config
	c.Cut.Wait, c.Cut.MaxLag, c.Cut.Timeout = true, patience, patience
	a := m.ask(c)
	time.Sleep(50 * time.Millisecond) // it may have looked once or not at all: both are taken back
	a.takeBack()
	a.gate(t, "taken back before it began")
	a = m.ask(c)
	if err := writer.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	if <-a.done; a.err != nil || !strings.Contains(strings.Join(a.steps, "\n"), "waiting until it follows") {
		t.Errorf("the asker that waited ended with %v; it said %q", a.err, a.steps)
	}
	m.cleanup()
}

// What verify has found is kept, shown, and keeps a cutover from going on, until it is compared again
// or waived.
func TestCutover_LastComparison(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key, v text); insert into t values (1, 'a'); create table u (id int primary key)`)
	m := newMoving(t, "last", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, target, `update t set v = 'b'`)
	compare := func(tables ...string) {
		t.Helper()
		if _, err := migration.Verify(context.Background(), m.Config, migration.VerifyOptions{Tables: tables}); err != nil {
			t.Fatal(err)
		}
	}
	compare()
	if gate := m.gate(); !strings.Contains(gate.Problem, `"public"."t"`) || !strings.Contains(gate.Advice, "--allow-differences") {
		t.Errorf("the gate says %s; %s", gate.Problem, gate.Advice)
	}
	compare("public.u")
	st, err := migration.ReadStatus(context.Background(), m.Config)
	if err != nil || st.LastComparison == nil || len(st.LastComparison.Differ) != 1 || st.LastComparison.Compared != 1 {
		t.Errorf("a comparison of another table has left %+v, %v", st.LastComparison, err)
	}
	m.Cut.AllowDifferences, m.Cut.DryRun, m.Cut.MaxLag, m.Cut.Timeout = true, true, patience, patience
	if _, err := migration.Cutover(context.Background(), m.Config, nil); err != nil {
		t.Errorf("a rehearsal over the differences: %v", err)
	}
	m.Cut.AllowDifferences, m.Cut.DryRun = false, false
	pgtest.Exec(t, target, `update t set v = 'a'`)
	compare("public.t")
	m.cutover(r)
	m.cleanup()
}

// The process that has asked for a cutover is gone, and nobody has taken it back: it does not
// happen when what it waits for has ended, minutes later. Nor does one that an abort comes to, asked for or by
// itself: the migration is given up at once.
func TestCutover_Unwanted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ label, problem string }{
		{"deserted", "has been silent for 15s: everything is as before"},
		{"aborted", "walferry abort was asked for: everything is as before"},
		{"by itself", ""},
	} {
		t.Run(c.label, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, 15, 18)
			pgtest.Exec(t, source, `create table a (id int primary key); create table t (id int primary key)`)
			m := newMoving(t, "unwanted", source, target)
			m.Cut.MaxLag, m.Cut.Timeout = patience, 10*patience
			r := m.start()
			r.waitFor(migration.Following)
			if c.label == "by itself" {
				r.cancel()
				r.end() //nolint:errcheck // it was stopped
			}
			writer := hold(t, source, `insert into t values (1)`)
			if c.label == "by itself" {
				m.Auto = migration.On
				r = m.start()
			}
			under := func() bool {
				return one[int](t, source, `select count(*) from pg_trigger where tgname = 'walferry_fence' and tgrelid = 'a'::regclass`) > 0
			}
			var a *asker
			switch c.label {
			case "deserted":
				pgtest.Exec(t, target, fmt.Sprintf(`insert into walferry.request (migration, kind, args, requested_at, seen_at)
select '%s', 'cutover', '{"timeout": 600, "max_lag": 60}', now, now + interval '1 microsecond' from clock_timestamp() now`, m.Name))
			case "aborted":
				a = m.ask(m.Config)
			}
			m.eventually("a cutover that waits for the writer", under)
			if c.label == "deserted" {
				m.eventually("an answer", func() bool {
					return one[int](t, target, `select count(*) from walferry.request where kind = 'cutover' and not ok and answer ->> 'error' like '%`+c.problem+`'`) == 1
				})
				writer.rollback()
				pgtest.Exec(t, source, `insert into t values (2)`)
				m.caughtUp(r)
				if st := status(t, m.Config); st.Phase != migration.Following || under() {
					t.Errorf("phase %s, triggers of the fence %v; want that it follows, without", st.Phase, under())
				}
				return
			}
			if err := migration.Abort(context.Background(), m.Config); err != nil {
				t.Fatalf("abort: %v", err)
			}
			if a != nil {
				a.gate(t, c.problem)
			}
			if outcome, err := r.end(); outcome.Phase == migration.Finished || err == nil {
				t.Errorf("migrate ended with %+v, %v, want that it was aborted", outcome, err)
			}
			writer.rollback()
			pgtest.Exec(t, source, `insert into t values (2)`)
			if under() {
				t.Error("the source still has triggers of the fence")
			}
			m.cleanup()
		})
	}
}

// The target cannot be asked for a moment just when a cutover is to be recorded as taken back: migrate
// records it as soon as it can, and the next cutover is done.
func TestCutover_TakenBackLate(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	m := newMoving(t, "back_late", source, target)
	m.Cut.MaxLag, m.Cut.Timeout = patience, patience
	p := pgtest.ProxyFor(t, target)
	var drained, back atomic.Bool
	p.Watch(func(s pgtest.Step) (f pgtest.Fault) {
		switch {
		case strings.Contains(s.Statement, "set drained_at"):
			f.Cut = drained.CompareAndSwap(false, true)
		case strings.Contains(s.Statement, "update walferry.migration set phase") && drained.Load():
			f.Cut = back.CompareAndSwap(false, true)
		}
		return f
	})
	through := *m
	through.Config.Target = p.Through(target)
	r := through.start()
	r.m = m
	r.waitFor(migration.Following)
	_, err := migration.Cutover(context.Background(), m.Config, nil)
	if !back.Load() || err == nil || fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "NOT everything could be undone") {
		t.Errorf("its record was cut off: %v; the cutover ended with %v, want that not everything could be undone", back.Load(), err)
	}
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `insert into t values (1)`)
	m.caughtUp(r)
	m.cutover(r)
	sameRows(t, source, target)
	m.cleanup()
}
