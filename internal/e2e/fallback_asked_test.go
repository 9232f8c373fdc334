package e2e

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
)

// Migrate is killed when what it was asked for is done, and before it says so. Whoever has asked learns that it is done, and so does
// whoever asks again, with what was measured.
func TestFallBack_AnswerLost(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id serial primary key, v text); insert into t (v) values ('old')`)
	m := newMoving(t, "answer_lost", source, target)
	var mu sync.Mutex
	var running *exec.Cmd // that is to be killed; nil: not now
	p := pgtest.ProxyFor(t, target)
	p.Watch(func(s pgtest.Step) (f pgtest.Fault) {
		mu.Lock()
		defer mu.Unlock()
		if running != nil && strings.Contains(s.Statement, "set answered_at") && !strings.Contains(s.Statement, "with old as") {
			running.Process.Kill() //nolint:errcheck // what follows tells
			running, f.Cut = nil, true
		}
		return f
	})
	through := m.Config
	through.Target = p.Through(target)
	var migrate *exec.Cmd
	start := func() { migrate = process(t, through, "--fall-back", "require", "--max-retained-wal-target", "5GB") }
	lose := func(ask func() error) {
		t.Helper()
		mu.Lock()
		running = migrate
		mu.Unlock()
		if err := ask(); err != nil {
			t.Errorf("the one whose answer was lost: %v", err)
		}
		mu.Lock()
		killed := running == nil
		running = nil
		mu.Unlock()
		if !killed {
			t.Fatal("nobody was killed")
		}
		migrate.Wait() //nolint:errcheck // it was killed
	}
	switches := func(kind string, ask func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error)) {
		t.Helper()
		c := m.Config
		c.Cut.MaxLag, c.Cut.Timeout = patience, patience
		for _, already := range []bool{false, true} {
			asks := func() error {
				result, err := ask(context.Background(), c, nil)
				if err == nil && (result == nil || result.Already != already || result.FinishedAt == nil || result.WayBack == nil || result.WayBack.From == nil) {
					t.Errorf("%s, asked again %t: %+v", kind, already, result)
				}
				return err
			}
			if !already {
				lose(asks)
			} else if err := asks(); err != nil {
				t.Errorf("%s, asked again: %v", kind, err)
			}
		}
	}
	start()
	follows(t, m.Config, 0)
	switches("cutover", migration.Cutover)
	pgtest.Exec(t, target, `insert into t (v) values ('new')`)
	start()
	m.eventually("a way back that follows", func() bool { return m.back().State == state.BackFollowing && status(t, m.Config).Running })
	switches("fallback", migration.Fallback)
	pgtest.Exec(t, source, `insert into t (v) values ('old again')`)
	start()
	follows(t, m.Config, 0)
	m.asked(migration.Cutover)
	m.eventually("a way back that follows", func() bool { return m.back().State == state.BackFollowing })
	lose(func() error {
		already, err := migration.Finish(context.Background(), m.Config)
		if already {
			t.Error("it was not finished before")
		}
		return err
	})
	if already, err := migration.Finish(context.Background(), m.Config); err != nil || !already {
		t.Errorf("finish, asked again: %t, %v", already, err)
	}
	sameRows(t, source, target)
	m.cleanup()
}

// Who asks for the switch that was done last, while the one the other way round is in progress and has not changed the phase yet, is not
// told that it is done already.
func TestFallBack_AskedMeanwhile(t *testing.T) {
	t.Parallel()
	m, r := newFallBack(t, "meanwhile", 14, 18, migration.FallBackRequire)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	for _, now := range []struct {
		kind         string
		switches     func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error)
		opposite     func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error)
		from         string
		before, then migration.Phase
	}{
		{"fallback", migration.Fallback, migration.Cutover, m.Target, migration.Switched, migration.Following},
		{"cutover", migration.Cutover, migration.Fallback, m.Source, migration.Following, migration.Switched},
	} {
		old := m.quietHeldOn(now.from)
		asked := m.askFor(now.switches, patience, "a way back is armed")
		result, err := now.opposite(context.Background(), m.Config, nil)
		if !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "a "+now.kind+" is in progress") {
			t.Errorf("asked during a %s: %+v, %v; want that this is in progress", now.kind, result, err)
		}
		if phase := status(t, m.Config).Phase; phase != now.before {
			t.Errorf("it was asked in phase %s, not %s", phase, now.before)
		}
		old.commit()
		<-asked.done
		if asked.err != nil {
			t.Fatal(asked.err)
		}
		r.waitFor(now.then)
	}
	finished(t, m, r)
}
