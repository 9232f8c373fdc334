package cutover

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// move is a switch between two servers, whose stream has nothing to deliver.
type move struct {
	*Switch
	t      *testing.T
	app    *pgx.Conn // the application's, on the source
	phases []state.Phase
	lines  []string
	closed bool
	locked bool // the opening was prepared: a table of the target is locked

	// The stream.
	lag    func(context.Context) (time.Duration, error)
	passed error
	held   int
}

func newMove(t *testing.T) *move {
	t.Helper()
	source, target := pgtest.Pair(t, 15, 18)
	const tables = `create table t (id serial primary key, a text); create table u (id int primary key);`
	pgtest.Exec(t, source, `create schema walferry;`+tables+`insert into t (a) select 'x' from generate_series(1, 10)`)
	pgtest.Exec(t, target, tables+`analyze`)
	m := &move{t: t, app: connect(t, source)}
	m.lag = func(context.Context) (time.Duration, error) { return time.Millisecond, nil }
	list, err := catalog.Tables(t.Context(), m.app)
	if err != nil {
		t.Fatal(err)
	}
	s := &Switch{
		Name: "x", From: m.end(source), To: m.end(target), Tables: func() []catalog.Table { return list },
		Flow: m, Definitions: m, Opening: m, Timeout: time.Minute, MaxLag: time.Minute, Jobs: 1, Logger: slog.New(slog.DiscardHandler),
		Identity: func(ctx context.Context, from session.Lender) (mark string, err error) {
			err = from.Do(ctx, func(conn *pgx.Conn) (err error) {
				mark, err = catalog.Mark(ctx, conn, session.Major(conn.PgConn()))
				return err
			})
			return mark, err
		},
		Finished: func(*Result) {}, Closed: func() { m.closed = true }, Told: func(line string) { m.lines = append(m.lines, line) },
	}
	m.Switch = s
	s.Store = state.At(s.To.Link, "x")
	if err := s.Store.Begin(t.Context(), &state.Record{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Store.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Advance = func(ctx context.Context, phase state.Phase) error {
		m.phases = append(m.phases, phase)
		return s.Store.SetPhase(context.WithoutCancel(ctx), phase)
	}
	s.Sequences = &Carrier{From: s.From.Link, To: s.To.Link, Store: s.Store, Tables: s.Tables, Alter: func(ctx context.Context, _ time.Duration, sql string) error {
		return s.To.Link.Exec(ctx, sql)
	}}
	s.Gates = []Step{
		{Name: GateIdentity, Do: s.IdentityGate},
		{Name: GateLag, Do: s.LagGate},
		{Name: GateWriters, Do: s.WritersGate},
		{Name: GateStatistics, Do: s.StatisticsGate},
		{Name: GateSequences, Do: s.SequencesGate},
	}
	return m
}

func (m *move) end(dsn string) session.End {
	m.t.Helper()
	l, err := session.OpenLink(m.t.Context(), session.Config{DSN: dsn, Application: "x"}, online.Quiet)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(l.Close)
	return session.End{DSN: dsn, Link: l}
}

// again is the switch of another run.
func (m *move) again() *Switch {
	s := m.Switch
	next := &Switch{
		Name: s.Name, From: s.From, To: s.To, Tables: s.Tables, Flow: s.Flow, Definitions: s.Definitions, Opening: s.Opening, Timeout: s.Timeout, MaxLag: s.MaxLag, Jobs: s.Jobs,
		Logger: s.Logger, Identity: s.Identity, Finished: s.Finished, Closed: s.Closed, Told: s.Told, Store: state.At(s.To.Link, s.Name),
		Advance: s.Advance, WayBack: s.WayBack, Onward: s.Onward, Pass: s.Pass,
	}
	if err := next.Store.Take(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	next.Sequences = &Carrier{From: s.From.Link, To: s.To.Link, Store: next.Store, Tables: s.Tables, Alter: s.Sequences.Alter}
	return next
}

func (m *move) Alone(context.Context) (end func(), err error) {
	m.held++
	return func() { m.held-- }, nil
}
func (m *move) Canary(ctx context.Context) (time.Duration, error) { return m.lag(ctx) }
func (m *move) Beat(context.Context) error                        { return nil }
func (m *move) Applied(context.Context) (decoder.LSN, error)      { return ^decoder.LSN(0), nil }
func (m *move) Passed(decoder.LSN) error                          { return m.passed }
func (m *move) InApplierWay(context.Context) []online.Holder      { return nil }
func (m *move) WordsHold(context.Context) error                   { return nil }
func (m *move) CopiedAgain(context.Context) ([]string, error)     { return nil, nil }
func (m *move) StandStill(context.Context, time.Duration) func() {
	m.held++
	return func() { m.held-- }
}
func (m *move) FindKeys(context.Context) (*schema.Prepared, error)  { return nil, nil }
func (m *move) Ruled(context.Context) (map[string]bool, error)      { return nil, nil }
func (m *move) DropKeys(context.Context) error                      { return nil }
func (m *move) RefreshViews(context.Context) (int, error)           { return 0, nil }
func (m *move) EnableEach(context.Context) (_, _ []string, _ error) { return nil, nil, nil }

func (m *move) AwaitWriters(context.Context, time.Duration, online.Waits) error { return nil }

func (m *move) SettleWords(context.Context, <-chan struct{}, func(string)) error { return nil }

func (m *move) ValidateKeys(context.Context, func(string)) ([]string, error) { return nil, nil }

func (m *move) EnableRest(context.Context, time.Duration) ([]string, error) { return nil, nil }

func (m *move) Prepare(ctx context.Context, _ func(string)) (*pgx.Conn, error) {
	conn := connect(m.t, m.To.DSN)
	_, err := conn.PgConn().Exec(ctx, `begin; lock table u in access exclusive mode`).ReadAll()
	m.locked = err == nil
	return conn, err
}

// asBefore expects that a switch has left no trace.
func (m *move) asBefore() {
	m.t.Helper()
	if refused(m.t, m.app, `insert into t (a) values ('after')`) {
		m.t.Error("the source refuses writes")
	}
	var triggers, open int
	if err := m.app.QueryRow(m.t.Context(), `select count(*) from pg_trigger where tgname like 'walferry%'`).Scan(&triggers); err != nil || triggers > 0 {
		m.t.Errorf("triggers left: %d, %v", triggers, err)
	}
	if err := m.To.Link.Row(m.t.Context(), `select count(*) from walferry.migration where fenced_at is not null or drained_at is not null`, nil, &open); err != nil || open > 0 {
		m.t.Errorf("it is recorded as fenced: %d, %v", open, err)
	}
	if _, err := connect(m.t, m.To.DSN).Exec(m.t.Context(), `set lock_timeout = '10s'; select * from u`); err != nil {
		m.t.Errorf("the target is locked: %v", err)
	}
	if m.held != 0 || m.closed {
		m.t.Errorf("held %d, not un-fenced: %v", m.held, m.closed)
	}
}

func outcomes(steps []state.Taken) map[string]state.Outcome {
	found := map[string]state.Outcome{}
	for _, s := range steps {
		found[s.Name] = s.Outcome
	}
	return found
}

func TestSwitch(t *testing.T) {
	m := newMove(t)
	result, err := m.Run(t.Context(), t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !result.Sealed || result.FinishedAt == nil || result.Tables != 2 || result.Sequences != 1 {
		t.Errorf("result: %+v", result)
	}
	if want := []state.Phase{state.Fenced, state.Drained}; !slices.Equal(m.phases, want) {
		t.Errorf("phases %v, want %v", m.phases, want)
	}
	for _, step := range result.Steps {
		if step.Outcome != state.Done {
			t.Errorf("step %+v", step)
		}
	}
	if !refused(t, m.app, `insert into t (a) values ('late')`) {
		t.Error("the source takes writes")
	}
	var next int
	var phase string
	err = m.To.Link.Row(t.Context(), `select nextval('public.t_id_seq'), phase from walferry.migration`, nil, &next, &phase)
	if err != nil || next != 11 || phase != "finished" {
		t.Errorf("next value %d, phase %s, %v", next, phase, err)
	}
	if m.held != 0 {
		t.Errorf("held: %d", m.held)
	}
}

// Whatever stops a switch before its seal, and wherever, everything is as before afterwards.
func TestSwitch_TakenBack(t *testing.T) {
	withdrawn := &fail.Error{Kind: fail.Gate, Problem: "taken back", Advice: "ask again"}
	for name, c := range map[string]struct {
		stop func(m *move, cancel context.CancelCauseFunc)
		says string
		step string // that was undone
	}{
		"while the fence is put up": {func(m *move, cancel context.CancelCauseFunc) {
			m.Observers = []Observer{func(_ context.Context, s state.Taken) error {
				if s.Name == stepQuiet {
					cancel(withdrawn)
				}
				return nil
			}}
		}, "taken back", stepTriggers},
		"while it drains": {func(m *move, cancel context.CancelCauseFunc) {
			m.lag = func(ctx context.Context) (time.Duration, error) {
				if m.since.IsZero() {
					return 0, nil
				}
				cancel(withdrawn)
				<-ctx.Done()
				return 0, context.Cause(ctx)
			}
		}, "taken back", stepFence},
		"by who has passed the fence": {func(m *move, _ context.CancelCauseFunc) {
			m.passed = errors.New("somebody has passed the fence")
		}, "somebody has passed the fence", stepFence},
		"by an observer before the seal": {func(m *move, _ context.CancelCauseFunc) {
			m.Observers = []Observer{func(_ context.Context, s state.Taken) error {
				if s.Name == stepSeal && s.Outcome == state.Begun {
					return errors.New("the pooler refuses")
				}
				return nil
			}}
		}, "the pooler refuses", stepPrepare},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMove(t)
			wanted, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			c.stop(m, cancel)
			result, err := m.Run(t.Context(), wanted)
			gate := fail.Find(err, fail.Gate)
			if gate == nil || !strings.HasPrefix(gate.Problem, c.says) || !strings.HasSuffix(gate.Problem, "; un-fenced, everything is as before") {
				t.Errorf("it ended with %v", err)
			}
			if result.Sealed || !result.Touched || outcomes(result.Steps)[c.step] != state.Undone {
				t.Errorf("result: %+v", result)
			}
			if last := m.phases[len(m.phases)-1]; last != state.Following {
				t.Errorf("phases %v", m.phases)
			}
			if c.step == stepPrepare && !m.locked {
				t.Error("the opening was not prepared")
			}
			m.asBefore()
		})
	}
}

// A rehearsal fences, drains and un-fences. It records no phase, and says what the pause would be.
func TestSwitch_Rehearsal(t *testing.T) {
	m := newMove(t)
	m.Rehearse = true
	result, err := m.Run(t.Context(), t.Context())
	if err != nil || result.DrainedAt == nil || result.FinishedAt != nil || result.ExpectMS == nil {
		t.Fatalf("result: %+v, %v", result, err)
	}
	if slices.Contains(m.phases, state.Fenced) || !slices.Contains(m.lines, "un-fenced") {
		t.Errorf("phases %v, told %q", m.phases, m.lines)
	}
	m.asBefore()
}

// Another process has taken the migration over while this one stood still inside the fence: it
// opens what it has raised, which the other need not have seen, and leaves everything else as it
// is.
func TestSwitch_Overtaken(t *testing.T) {
	m := newMove(t)
	m.lag = func(ctx context.Context) (time.Duration, error) {
		if m.since.IsZero() {
			return 0, nil
		}
		other := state.At(m.To.Link, "x")
		return 0, errors.Join(errors.New("no beat"), other.Take(ctx))
	}
	if _, err := m.Run(t.Context(), t.Context()); !errors.Is(err, state.ErrOvertaken) {
		t.Errorf("it ended with %v", err)
	}
	if refused(t, m.app, `insert into t (a) values ('x')`) {
		t.Error("its own fence is still up")
	}
	if m.phases[len(m.phases)-1] != state.Fenced {
		t.Errorf("phases %v: it has recorded what is another's to record", m.phases)
	}
}

// The same if the other one has raised its own fence since.
func TestSwitch_OvertakenFenced(t *testing.T) {
	m := newMove(t)
	m.lag = func(ctx context.Context) (time.Duration, error) {
		if m.since.IsZero() {
			return 0, nil
		}
		conn, other := connect(t, m.From.DSN), m.fence
		other.Run = "another"
		err := errors.Join(state.At(m.To.Link, "x").Take(ctx), Open(ctx, conn, "x", ""), other.Prepare(ctx, conn))
		_, _, raised := other.Raise(ctx, conn, time.Hour)
		if err = errors.Join(err, raised); err != nil {
			t.Error(err)
		}
		return 0, errors.New("no beat")
	}
	if _, err := m.Run(t.Context(), t.Context()); !errors.Is(err, state.ErrOvertaken) {
		t.Errorf("it ended with %v", err)
	}
	if !refused(t, m.app, `insert into t (a) values ('x')`) {
		t.Error("it has un-fenced what is another's")
	}
}

// A gate that is not passed ends a switch before anything is changed.
func TestSwitch_Gates(t *testing.T) {
	for name, c := range map[string]struct {
		bar  func(m *move)
		says string
		step string
	}{
		"lag": {func(m *move) {
			m.MaxLag = time.Millisecond
			m.lag = func(ctx context.Context) (time.Duration, error) {
				<-ctx.Done()
				return 0, context.Cause(ctx)
			}
		}, "the target lags", GateLag},
		"a sequence of the target ends before": {func(m *move) {
			pgtest.Exec(t, m.From.DSN, `select setval('t_id_seq', 1000)`)
			pgtest.Exec(t, m.To.DSN, `alter sequence t_id_seq maxvalue 100`)
		}, `sequence "public"."t_id_seq" of the target goes from 1 to 100`, GateSequences},
		"the source is another": {func(m *move) {
			m.Identity = func(context.Context, session.Lender) (string, error) {
				return "", &fail.Error{Kind: fail.Gate, Problem: "t is another table", Advice: "start over"}
			}
		}, "t is another table", GateIdentity},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMove(t)
			c.bar(m)
			result, err := m.Run(t.Context(), t.Context())
			gate := fail.Find(err, fail.Gate)
			if gate == nil || !strings.HasPrefix(gate.Problem, c.says) {
				t.Errorf("it ended with %v", err)
			}
			if result.Touched || outcomes(result.Steps)[c.step] != state.Failed || len(m.phases) > 0 {
				t.Errorf("result %+v, phases %v", result, m.phases)
			}
			m.asBefore()
		})
	}
}

// Statistics that the target has lost, as after a crash, keep nobody from switching: they are
// gathered.
func TestSwitch_Statistics(t *testing.T) {
	m := newMove(t)
	pgtest.Exec(t, m.To.DSN, `create table fresh (id int primary key); insert into fresh values (1)`)
	pgtest.Exec(t, m.From.DSN, `create table fresh (id int primary key)`)
	list, err := catalog.Tables(t.Context(), m.app)
	if err != nil {
		t.Fatal(err)
	}
	m.Tables, m.NoFence, m.Rehearse = func() []catalog.Table { return list }, true, true
	if _, err := m.Run(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m.lines, "; "); !strings.Contains(got, `gathering them: "public"."fresh"`) {
		t.Errorf("told %q", got)
	}
	if bare, err := m.withoutStatistics(t.Context()); err != nil || len(bare) > 0 {
		t.Errorf("without statistics: %v, %v", bare, err)
	}
}
