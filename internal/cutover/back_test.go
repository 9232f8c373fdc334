package cutover

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
)

// wayBack notes what is asked of it, and where the fence of From stood then.
type wayBack struct {
	m             *move
	arm, begin    error
	calls, fences []string
	ahead         map[catalog.Name]Position
}

func (w *wayBack) note(call string) {
	w.calls = append(w.calls, call)
	s, err := Look(context.Background(), connect(w.m.t, w.m.From.DSN), "x")
	stands := "none"
	switch {
	case err != nil:
		stands = err.Error()
	case s.Sealed:
		stands = "sealed"
	case s.Raised:
		stands = "raised"
	case s.Triggers > 0:
		stands = "open"
	}
	w.fences = append(w.fences, stands)
}

func (w *wayBack) Arm(context.Context, func(string)) error {
	w.note("arm")
	return w.arm
}

func (w *wayBack) Disarm(context.Context) { w.note("disarm") }

func (w *wayBack) Begin(context.Context) (decoder.LSN, error) {
	w.note("begin")
	if !w.m.locked {
		w.m.t.Error("the way back begins before the opening is prepared")
	}
	return 4711, w.begin
}

func (w *wayBack) KeepAhead(_ context.Context, at []Sequence) error {
	w.note("ahead")
	w.ahead = map[catalog.Name]Position{}
	for _, s := range at {
		s.LastValue += 1000
		if err := w.m.From.Link.Exec(context.Background(), `select setval($1::text::regclass, $2)`, s.String(), s.LastValue); err != nil {
			return err
		}
		w.ahead[s.Name] = Position{s.LastValue, true}
	}
	return nil
}

func (w *wayBack) Ahead(context.Context) (map[catalog.Name]Position, error) { return w.ahead, nil }

func (w *wayBack) want(calls, fences string) {
	w.m.t.Helper()
	if got := strings.Join(w.calls, " "); got != calls {
		w.m.t.Errorf("asked for %q, want %q", got, calls)
	}
	if got := strings.Join(w.fences, " "); got != fences {
		w.m.t.Errorf("the fence was %q, want %q", got, fences)
	}
}

func newWayBack(t *testing.T) (*move, *wayBack) {
	m := newMove(t)
	w := &wayBack{m: m}
	m.WayBack, m.Onward, m.Pass = w, state.Switched, "a secret"
	return m, w
}

func (m *move) recorded() (phase state.Phase) {
	m.t.Helper()
	if err := m.To.Link.Row(m.t.Context(), `select phase from walferry.migration`, nil, &phase); err != nil {
		m.t.Fatal(err)
	}
	return phase
}

// A way back is armed before the fence is put up, and begins when everything but the seal is done. What has its
// pass writes to the old side afterwards, and nobody else.
func TestSwitch_WayBack(t *testing.T) {
	m, w := newWayBack(t)
	result, err := m.Run(t.Context(), t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.want("arm begin ahead", "none raised sealed")
	if !result.Sealed || result.WayBack == nil || result.WayBack.From == nil || *result.WayBack.From != 4711 || result.WayBack.None != "" {
		t.Errorf("result: %+v", result.WayBack)
	}
	if phase := m.recorded(); phase != state.Switched {
		t.Errorf("phase %s", phase)
	}
	if !refused(t, m.app, `insert into t (a) values ('late')`) {
		t.Error("the source takes writes")
	}
	if refused(t, m.app, `set walferry.pass = 'a secret'; insert into t (a) values ('by the way back')`) {
		t.Error("the way back does not pass the fence")
	}
}

// Where the way back cannot be had the switch goes on without, and says so; or it is refused.
func TestSwitch_WayBackNotArmed(t *testing.T) {
	m, w := newWayBack(t)
	w.arm = errors.New("wal_level is replica")
	result, err := m.Run(t.Context(), t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.want("arm disarm", "none none")
	if result.WayBack == nil || result.WayBack.From != nil || result.WayBack.None != "wal_level is replica" {
		t.Errorf("result: %+v", result.WayBack)
	}
	if !slices.ContainsFunc(m.lines, func(l string) bool {
		return strings.HasPrefix(l, "NO WAY BACK") && strings.Contains(l, "wal_level is replica")
	}) {
		t.Errorf("told %q", m.lines)
	}
	if phase := m.recorded(); phase != state.Finished {
		t.Errorf("phase %s", phase)
	}

	m, w = newWayBack(t)
	w.arm, m.NeedWayBack = errors.New("wal_level is replica"), true
	_, err = m.Run(t.Context(), t.Context())
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(gate.Problem, "wal_level is replica") || !strings.Contains(gate.Problem, "everything is as before") {
		t.Errorf("it ended with %v", err)
	}
	w.want("arm disarm", "none none")
	m.asBefore()

	// What takes too long is given up before the rest of the time is gone.
	m, w = newWayBack(t)
	m.WayBack, m.Timeout = slowWayBack{w}, 4*time.Second
	if result, err := m.Run(t.Context(), t.Context()); err != nil || !strings.Contains(result.WayBack.None, "a quarter of --timeout") {
		t.Errorf("it ended with %+v, %v", result.WayBack, err)
	}
}

// slowWayBack is one whose slot waits for somebody's transaction.
type slowWayBack struct{ *wayBack }

func (w slowWayBack) Arm(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return ctx.Err()
}

// A switch that is taken back gives its way back up when the source is open again; so does a rehearsal at its end.
func TestSwitch_WayBackTakenBack(t *testing.T) {
	m, w := newWayBack(t)
	w.begin = &fail.Error{Kind: fail.Gate, Problem: "somebody has written to the target", Advice: "end it"}
	_, err := m.Run(t.Context(), t.Context())
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(gate.Problem, "somebody has written to the target; un-fenced, everything is as before") {
		t.Errorf("it ended with %v", err)
	}
	w.want("arm begin disarm", "none raised none")
	if last := m.phases[len(m.phases)-1]; last != state.Following {
		t.Errorf("phases %v", m.phases)
	}
	m.asBefore()

	m, w = newWayBack(t)
	m.Rehearse = true
	if result, err := m.Run(t.Context(), t.Context()); err != nil || result.WayBack == nil || result.WayBack.From != nil {
		t.Errorf("the rehearsal ended with %+v, %v", result.WayBack, err)
	}
	w.want("arm disarm", "none none")
	m.asBefore()
}

// A fence that an earlier switch in the other direction has left on the target opens with it: in the transaction that
// opens the target, or where that is not to be had right after it. No trigger of it stays.
func TestSwitch_Stands(t *testing.T) {
	for _, prepared := range []bool{true, false} {
		m := newMove(t)
		conn := connect(t, m.To.DSN)
		list, err := catalog.Tables(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		earlier := Fence{Name: "x_back", Tables: list}
		if err := earlier.Prepare(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if _, _, err := earlier.Raise(t.Context(), conn, time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := earlier.Seal(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		home := m.Store
		m.Stands = Standing{Name: "x_back", DSN: m.To.DSN, Store: home}
		app := connect(t, m.To.DSN)
		m.Observers = []Observer{func(_ context.Context, s state.Taken) error {
			switch {
			case s.Name == stepSeal && s.Outcome == state.Begun:
				if !refused(t, app, `insert into t (a) values ('early')`) {
					t.Error("the target takes writes before the seal")
				}
			case s.Name == stepOpen && s.Outcome == state.Begun && !prepared:
				m.opening.close()
				m.opening = nil
			case s.Name == stepTakeDown && s.Outcome == state.Begun:
				if refused(t, app, `insert into t (a) values ('after')`) {
					t.Error("the target refuses writes after the opening")
				}
			}
			return nil
		}}
		if _, err := m.Run(t.Context(), t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := pgtest.Query(t, m.To.DSN, `select count(*) from pg_trigger where tgname like 'walferry%'`)[0][0]; left != "0" {
			t.Errorf("triggers left: %s", left)
		}
		if refused(t, app, `insert into t (a) values ('late')`) {
			t.Error("the target refuses writes")
		}
	}
}

// A run that finds the fence sealed and the way back begun ends where the other would have, and lets the way back pass.
func TestResume_WayBack(t *testing.T) {
	m, w := newWayBack(t)
	m.Observers = []Observer{func(_ context.Context, s state.Taken) error {
		if s.Name == stepSeal && s.Outcome == state.Done {
			runtime.Goexit() // the run dies
		}
		return nil
	}}
	died := make(chan error, 1)
	go func() {
		defer close(died)
		_, err := m.Run(t.Context(), t.Context())
		died <- err
	}()
	if err, ended := <-died; ended {
		t.Fatalf("it ended with %v: this tests nothing", err)
	}
	w.want("arm begin", "none raised")
	next := m.again()
	done, err := next.Resume(t.Context(), true, nil, nil)
	if err != nil || !done {
		t.Fatalf("done %v, %v", done, err)
	}
	w.want("arm begin ahead", "none raised sealed")
	if phase := m.recorded(); phase != state.Switched {
		t.Errorf("phase %s", phase)
	}
	if refused(t, m.app, `set walferry.pass = 'a secret'; insert into t (a) values ('by the way back')`) {
		t.Error("the way back does not pass the fence")
	}
}
