package migration

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/compare"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// What is known of a cutover.
type (
	CutoverResult = cutover.Result
	LeftOut       = cutover.LeftOut
	Comparison    = cutover.Comparison
)

// newSwitch returns the switch from the source of e to its target. other are the ends the other way round.
func (e *ends) newSwitch(other *ends, o CutoverOptions, told func(string)) *cutover.Switch {
	s := &cutover.Switch{
		Name: e.name.String(), From: e.flow.From, To: e.flow.To, Sides: e.sides(),
		Tables: e.switched, Definitions: e.definitions, Opening: e.opening, Sequences: e.carrier(), Identity: e.tables.Gate,
		Store: e.store, Advance: e.advance, Onward: Switched,
		Timeout: o.Timeout, MaxLag: o.MaxLag, Rehearse: o.DryRun, NoFence: o.NoFence, Jobs: e.c.Jobs,
		Told: told, Logger: e.sides().Logger(e.c.Logger),
	}
	if e.clients.Within = o.Timeout; e.c.Clients.Any() {
		s.Clients = e.clients
	}
	if other.switchedBefore() {
		s.Stands = other.fence
	}
	if e.c.Prove == On {
		s.Proof = &cutover.Proof{Tables: func(ctx context.Context) ([]catalog.Table, error) {
			all, err := e.tables.Migrated(ctx)
			return slices.DeleteFunc(all, e.isAway), err
		}}
	}
	s.Observers = []cutover.Observer{func(_ context.Context, t state.Taken) error {
		e.shown.Set(func(st *Status) {
			st.Cutover.Steps = s.Taken()
			st.Begins(t)
		})
		return nil
	}}
	s.InWay = func(w online.Wait) { e.shown.Set(func(st *Status) { st.WaitsFor(w) }) }
	s.Gates = []cutover.Step{
		{Name: cutover.GatePhase, Do: e.phaseGate},
		// Before the beat, which comes back whatever has become of the publication.
		{Name: cutover.GateIdentity, Do: func(ctx context.Context) error {
			err := s.IdentityGate(ctx)
			if behind := e.tables.Behind(); err == nil && len(behind) > 0 {
				told("tables stay behind on the " + s.Sides.From() + ", with their rows: " + catalog.List(behind))
			}
			return err
		}},
		{Name: cutover.GateLag, Do: s.LagGate},
		{Name: cutover.GateWriters, Do: s.WritersGate},
		{Name: cutover.GateCompared, Do: func(ctx context.Context) error { return compare.Gate(ctx, e.store, o.AllowDifferences) }},
		{Name: cutover.GateStatistics, Do: s.StatisticsGate},
		{Name: cutover.GateSchema, Do: func(ctx context.Context) error {
			if err := e.tables.Select(ctx, true); err != nil { // as they are now, for the rest of the cutover
				return err
			}
			return e.definitions.Gate(ctx, e.tables.Remembered(), o.Without)
		}},
		{Name: cutover.GateActions, Do: func(ctx context.Context) error { return e.opening.Gate(ctx, o.Timeout/4, told) }},
		{Name: cutover.GateSequences, Do: s.SequencesGate},
	}
	return s
}

// cutover switches from the source to the target. See cutover.Switch.
func (f *following) cutover(whole, wanted context.Context, asked bool, o CutoverOptions, step func(string)) (*CutoverResult, error) {
	select {
	case f.cutting <- struct{}{}:
		defer func() { <-f.cutting }()
	case <-wanted.Done():
		return &CutoverResult{DryRun: o.DryRun}, context.Cause(wanted)
	case <-time.After(o.Timeout):
		return &CutoverResult{DryRun: o.DryRun}, &fail.Error{Kind: fail.Gate, Problem: "another " + f.e.sides().Switch() + " is in progress", Advice: "`walferry status` shows where it stands"}
	}
	f.e.shown.Set(func(st *Status) { st.Under = &state.Under{Asked: asked, DryRun: o.DryRun} })
	defer f.e.shown.Set(func(st *Status) { st.Under = nil })
	s := f.e.newSwitch(f.other, o, step)
	s.Flow = f.running
	s.Finished = func(result *CutoverResult) {
		phase := Finished
		if s.WayBack != nil {
			phase = s.Onward
		}
		f.e.live.Moved(phase)
		f.r.switched(result)
	}
	s.Closed = func() {
		f.mu.Lock()
		f.closed = true
		f.mu.Unlock()
	}
	if m := f.r.groups.Mode(); m != nil {
		s.WayBack, s.Pass, s.NeedWayBack = f.r.groups.Begins(), m.Pass, true
		s.Sequences.Owned = f.r.groups.WithRest()
	} else if back := f.e.name.Direction == flow.Back; back || f.e.c.FallBack != NoFallBack {
		w := f.e.newWayBack(f.other)
		s.WayBack, s.Pass, s.NeedWayBack = w, w.Pass, back || f.e.c.FallBack == FallBackRequire
	}
	result, err := s.Run(whole, wanted)
	f.e.shown.Set(func(st *Status) { st.Ran(f.switchKind(), s.Taken(), result, err) })
	if phase := f.e.live.Phase(); err != nil && !result.Sealed && phase != Following && phase != Finished && !errors.Is(err, state.ErrOvertaken) {
		f.mu.Lock()
		f.halfway = true
		f.mu.Unlock()
	}
	return result, err
}

// afterInterruptedCutover decides for a run that finds the phase Fenced or Drained: the cutover is
// finished if its fence is sealed. Otherwise the fence is taken down, and the migration follows on.
func (r *runner) afterInterruptedCutover(ctx context.Context, e, other *ends) (Phase, error) {
	if err := other.recall(ctx); err != nil {
		return "", err
	}
	s := e.newSwitch(other, CutoverOptions{}.Fill(), func(line string) { e.c.Logger.Info(e.sides().Switch() + ": " + line) })
	s.Finished = r.switched
	if other.armed.Begins != 0 { // which is so where the fence is sealed; otherwise it is of no importance
		s.WayBack, s.Began, s.Pass = e.newWayBack(other), other.armed.Begins, other.armed.Pass
	}
	done, err := s.Resume(ctx, e.live.Phase() == Drained, e.rec.FencedAt, e.rec.DrainedAt)
	switch {
	case err != nil:
		return "", err
	case !done:
		return Following, nil // which takes down what stands
	case s.WayBack != nil:
		return Switched, nil
	}
	return Finished, nil
}

func (e *ends) phaseGate(context.Context) error {
	if phase := e.live.Phase(); phase != Following {
		return &fail.Error{Kind: fail.Gate, Problem: "the migration is in phase " + string(phase) + ", not following", Advice: "wait until it follows"}
	}
	return nil
}

// switched notes that a cutover is done.
func (r *runner) switched(result *CutoverResult) {
	r.mu.Lock()
	r.cutover = result
	r.mu.Unlock()
}

// carrier carries the source's sequences over to the target.
func (e *ends) carrier() *cutover.Carrier {
	return &cutover.Carrier{
		From: e.source, To: e.target, Sides: e.sides(), Store: e.store, Tables: e.switched,
		Alter: func(ctx context.Context, patience time.Duration, sql string) error {
			return e.opening.Transaction(ctx, patience, nil, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, sql)
				return err
			})
		},
	}
}

// undoLate tries again what a cutover that was undone could not undo then.
func (f *following) undoLate(ctx context.Context) {
	f.e.clients.Retry(ctx)
	f.mu.Lock()
	closed, halfway := f.closed, f.halfway
	f.mu.Unlock()
	if closed {
		say := func(text string) { f.r.c.Logger.Warn(text) }
		err := wait.Within(ctx, 5*time.Second, func(ctx context.Context) error {
			return f.e.fence.TakeDown(ctx, f.e.store.Run(), func() { say("un-fenced") }, say)
		})
		var still *cutover.StillFencedError
		if errors.As(err, &still) {
			f.r.c.Logger.Debug("un-fence", "error", err)
			return
		}
		f.mu.Lock()
		f.closed = false
		f.mu.Unlock()
	}
	if !halfway {
		return
	}
	err := wait.Within(ctx, 5*time.Second, func(ctx context.Context) error {
		if err := f.e.definitions.DropKeys(ctx); err != nil {
			return err
		}
		return f.e.advance(ctx, Following)
	})
	if err != nil && !errors.Is(err, state.ErrOvertaken) { // then another one has it
		f.r.c.Logger.Debug("undo the cutover", "error", err)
		return
	}
	f.mu.Lock()
	f.halfway = false
	f.mu.Unlock()
}
