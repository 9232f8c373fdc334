package cutover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
)

// wrong are the words that mean the other server in a fallback, or the other switch.
var wrong = regexp.MustCompile(`(?i)\b(sources?|targets?|cutover|new database)\b`)

// turned is a fallback: From is the new server.
type turned struct{ *move }

func newTurned(t *testing.T) turned {
	m, _ := newWayBack(t)
	m.turn(m.Switch)
	return turned{m}
}

// turn makes a switch a fallback.
func (m *move) turn(s *Switch) {
	s.Sides, s.Sequences.Sides = sides.Back, sides.Back
}

// said are all texts that people are shown of a switch.
func said(lines []string, result *Result, err error) (texts []string) {
	texts = append(texts, lines...)
	if err != nil {
		texts = append(texts, err.Error(), fail.Hint(err))
	}
	if result == nil {
		return texts
	}
	for _, step := range result.Steps {
		texts = append(texts, step.Name, step.Error, step.UndoError)
	}
	if result.WayBack != nil {
		texts = append(texts, result.WayBack.None)
	}
	if result.Comparison != nil {
		texts = append(texts, result.Words(func(n int64) string { return fmt.Sprint(n) }))
	}
	texts = append(texts, result.Expectation())
	if err := result.Verdict(); err != nil {
		texts = append(texts, err.Error(), fail.Hint(err))
	}
	return texts
}

func (m turned) check(what string, result *Result, err error) {
	m.t.Helper()
	for _, text := range said(m.lines, result, err) {
		if found := wrong.FindString(text); found != "" {
			m.t.Errorf("%s: a fallback speaks of %q: %s", what, found, text)
		}
	}
}

// names expects that a text of a switch is there.
func (m turned) names(what string, result *Result, err error, want string) {
	m.t.Helper()
	m.check(what, result, err)
	if all := strings.Join(said(m.lines, result, err), "\n"); !strings.Contains(all, want) {
		m.t.Errorf("%s: want %q in\n%s", what, want, all)
	}
}

// An operator who is told in a fallback to do something on "the source" would do it on the wrong
// server. Whichever step of a fallback fails, nothing of what is said calls the servers so; nor
// does what those say that it goes through, which know nothing else.
func TestSwitch_TurnedWords(t *testing.T) {
	m := newTurned(t)
	ends, back := m.From, m.WayBack
	failed := 0
	for at := 0; ; at++ {
		s := m.again()
		m.turn(s)
		s.From, s.NeedWayBack, s.WayBack = ends, true, back
		s.Advance = func(ctx context.Context, phase state.Phase) error { return s.Store.SetPhase(ctx, phase) }
		name := ""
		s.Observers = []Observer{func(_ context.Context, taken state.Taken) error {
			if taken.Name == s.steps()[min(at, len(s.steps())-1)].Name && taken.Outcome == state.Begun {
				name = taken.Name
				return fmt.Errorf("connect to target: the source refuses a cutover: %w", errors.New("EOF"))
			}
			return nil
		}}
		if at >= len(s.steps()) || s.steps()[at].Seal {
			break
		}
		s.Gates = []Step{{Name: GateIdentity, Do: s.IdentityGate}, {Name: GateLag, Do: s.LagGate}, {Name: GateWriters, Do: s.WritersGate}}
		result, err := s.Run(t.Context(), t.Context())
		m.names(name, result, err, "connect to the old server: the new server refuses a fallback")
		if name == "" || err == nil {
			t.Fatalf("step %d: %v", at, err)
		}
		failed++
		m.asBefore()
	}
	if failed < 15 {
		t.Errorf("%d steps have failed: this tests little", failed)
	}
}

// What keeps a fallback from being done is on the server that it is said to be on.
func TestSwitch_TurnedBlocked(t *testing.T) {
	for name, c := range map[string]struct {
		bar  func(m turned) (free func())
		want string
	}{
		"lag": {func(m turned) func() {
			m.MaxLag = time.Millisecond
			m.lag = func(ctx context.Context) (time.Duration, error) {
				<-ctx.Done()
				return 0, context.Cause(ctx)
			}
			return func() {}
		}, "the old server lags: what was committed on the new server had not come through"},
		"a transaction that has written": {func(m turned) func() {
			m.Timeout = 12 * time.Second
			conn := connect(m.t, m.From.DSN)
			mustExec(m.t, conn, `begin; insert into t (a) values ('open')`)
			m.lag = func(context.Context) (time.Duration, error) { return 0, nil }
			return func() { mustExec(m.t, conn, `rollback`) }
		}, "on the new server, let them end, or end them: select pg_terminate_backend("},
		"a lock": {func(m turned) func() {
			m.Timeout = 6 * time.Second
			conn := connect(m.t, m.From.DSN)
			mustExec(m.t, conn, `begin; lock table u in share mode`)
			m.Observers = []Observer{func(_ context.Context, taken state.Taken) error {
				if taken.Name == stepTriggers && taken.Outcome == state.Failed {
					mustExec(m.t, conn, `rollback`)
				}
				return nil
			}}
			return func() {}
		}, "on the new server, let them end"},
		"the time is over": {func(m turned) func() {
			m.Timeout = 4 * time.Second
			m.lag = func(ctx context.Context) (time.Duration, error) {
				if m.since.IsZero() {
					return 0, nil
				}
				<-ctx.Done()
				return 0, context.Cause(ctx)
			}
			return func() {}
		}, "the fallback was not done within 4s"},
		"a sequence that ends before": {func(m turned) func() {
			pgtest.Exec(m.t, m.From.DSN, `select setval('t_id_seq', 1000)`)
			pgtest.Exec(m.t, m.To.DSN, `alter sequence t_id_seq maxvalue 100`)
			return func() {}
		}, `of the old server goes from 1 to 100, and the new server's stands at 1000`},
		"a sequence that was altered": {func(m turned) func() {
			if err := m.Sequences.Remember(m.t.Context()); err != nil {
				m.t.Fatal(err)
			}
			pgtest.Exec(m.t, m.From.DSN, `alter sequence t_id_seq cache 7`)
			m.Sequences.Alter = func(context.Context, time.Duration, string) error { return errors.New("must be owner") }
			return func() {}
		}, `the new server has altered sequence "public"."t_id_seq", and the old server's could not be altered`},
		"what its way back says, which goes the other way": {func(m turned) func() {
			w := &wayBack{m: m.move, arm: errors.New("begin on the target: the source is a standby")}
			m.WayBack, m.NeedWayBack = w, true
			return func() {}
		}, "begin on the new server: the old server is a standby"},
		"a gate beneath": {func(m turned) func() {
			m.Identity = func(context.Context, session.Lender) (string, error) {
				return "", &fail.Error{Kind: fail.Gate, Problem: "tables of the target have each other's names", Advice: "give them on the target the names that they have on the source"}
			}
			return func() {}
		}, "give them on the old server the names that they have on the new server"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTurned(t)
			free := c.bar(m)
			result, err := m.Run(t.Context(), t.Context())
			free()
			m.names(name, result, err, c.want)
			if !fail.Is(err, fail.Gate) {
				t.Errorf("it ended with %v, want a gate", err)
			}
			m.asBefore()
		})
	}
}

// What is said of a fallback that is done, of its rehearsal, of one that could not be undone, and of
// one that another run finishes. An application is sent to the right database.
func TestSwitch_TurnedDone(t *testing.T) {
	m := newTurned(t)
	m.Rehearse = true
	result, err := m.Run(t.Context(), t.Context())
	m.names("a rehearsal", result, err, "to un-fence by hand, on the new server:\n")

	m = newTurned(t)
	result, err = m.Run(t.Context(), t.Context())
	m.names("done", result, err, "the old server is open")
	_, err = m.app.Exec(t.Context(), `insert into t (a) values ('late')`)
	if err == nil || !strings.Contains(err.Error(), "this database is moving back to the old server") {
		t.Errorf("an application is told %v", err)
	}
	no := false
	for _, c := range []struct {
		result Result
		want   string
	}{
		{Result{Disabled: []string{"alter table t enable trigger x"}}, "run on the old server: alter table t"},
		{Result{Unvalidated: []string{"alter table t validate constraint x"}}, "run on the old server: alter table t"},
		{Result{Comparison: &Comparison{Equal: &no}}, "the new server still holds every one of its own"},
		{Result{Comparison: &Comparison{Error: "EOF"}}, "the new server and the old server were NOT compared as of the fallback: EOF"},
		{Result{Comparison: &Comparison{NotCompared: 3}}, "the new server still holds every one of its rows"},
	} {
		c.result.Sides = sides.Back
		if c.result.Comparison != nil {
			c.result.Comparison.Sides = sides.Back
		}
		text, err := json.Marshal(c.result) // as the process reads it that has asked
		if err != nil {
			t.Fatal(err)
		}
		read := &Result{}
		if err := json.Unmarshal(text, read); err != nil {
			t.Fatal(err)
		}
		m.names("the result", read, nil, c.want)
	}

	m = newTurned(t)
	err = m.explainStop(&StopError{Step: stepDrain, Touched: true, Err: errors.New("no answer"), Back: &StillFencedError{errors.New("no connection")}})
	m.names("not undone", nil, err, "on the new server, run the SQL that was printed")
}

// A result that an older version has recorded, or that of a switch without a way back, reads as it
// did.
func TestResult_OneWay(t *testing.T) {
	r := &Result{}
	if err := json.Unmarshal([]byte(`{"disabled": ["alter table t enable trigger x"], "equal": false, "compared": 1}`), r); err != nil {
		t.Fatal(err)
	}
	if got, want := r.Words(func(n int64) string { return fmt.Sprint(n) }), "source and target DIFFERED at that moment: `walferry verify` names the rows"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := r.Verdict(); err == nil || err.Error() != "the cutover is done, but source and target differed at that moment" {
		t.Errorf("got %v", err)
	}
	if text, err := json.Marshal(Result{}); err != nil || strings.Contains(string(text), "direction") {
		t.Errorf("got %s, %v", text, err)
	}
}

func mustExec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}
