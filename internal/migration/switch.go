package migration

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/compare"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
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

// newSwitch is the switch from the source to the target.
func (r *runner) newSwitch(o CutoverOptions, told func(string)) *cutover.Switch {
	s := &cutover.Switch{
		Name: r.c.Name, From: r.flow.From, To: r.flow.To,
		Tables: r.tables.Selected, Definitions: r.definitions, Opening: r.opening, Sequences: r.carrier(), Identity: r.tables.Gate,
		Store: r.store, Advance: r.advance, Finished: r.switched,
		Timeout: o.Timeout, MaxLag: o.MaxLag, Rehearse: o.DryRun, NoFence: o.NoFence, Jobs: r.c.Jobs,
		Told: told, Logger: r.c.Logger,
	}
	if r.c.Prove == On {
		s.Proof = &cutover.Proof{Tables: r.tables.Migrated}
	}
	s.Observers = []cutover.Observer{func(_ context.Context, t state.Taken) error {
		r.live.set(func(st *Status) {
			st.Cutover.Steps = s.Taken()
			st.Begins(t)
		})
		return nil
	}}
	s.InWay = func(w online.Wait) { r.live.set(func(st *Status) { st.WaitsFor(w) }) }
	s.Gates = []cutover.Step{
		{Name: cutover.GatePhase, Do: r.phaseGate},
		// Before the beat, which comes back whatever has become of the publication.
		{Name: cutover.GateIdentity, Do: s.IdentityGate},
		{Name: cutover.GateLag, Do: s.LagGate},
		{Name: cutover.GateWriters, Do: s.WritersGate},
		{Name: cutover.GateCompared, Do: func(ctx context.Context) error { return compare.Gate(ctx, r.store, o.AllowDifferences) }},
		{Name: cutover.GateStatistics, Do: s.StatisticsGate},
		{Name: cutover.GateSchema, Do: func(ctx context.Context) error {
			if err := r.tables.Select(ctx, true); err != nil { // as they are now, for the rest of the cutover
				return err
			}
			return r.definitions.Gate(ctx, r.tables.Remembered(), o.Without)
		}},
		{Name: cutover.GateActions, Do: func(ctx context.Context) error { return r.opening.Gate(ctx, o.Timeout/4, told) }},
		{Name: cutover.GateSequences, Do: s.SequencesGate},
	}
	return s
}

// cutover switches from the source to the target. See cutover.Switch.
func (f *following) cutover(whole, wanted context.Context, asked bool, o CutoverOptions, step func(string)) (*CutoverResult, error) {
	s := f.r.newSwitch(o, step)
	s.Flow = f.running
	s.Closed = func() {
		f.mu.Lock()
		f.closed = true
		f.mu.Unlock()
	}
	select {
	case f.cutting <- struct{}{}:
		defer func() { <-f.cutting }()
	case <-wanted.Done():
		return &CutoverResult{DryRun: o.DryRun}, context.Cause(wanted)
	case <-time.After(o.Timeout):
		return &CutoverResult{DryRun: o.DryRun}, &fail.Error{Kind: fail.Gate, Problem: "another cutover is in progress", Advice: "`walferry status` shows where it stands"}
	}
	f.r.live.set(func(st *Status) { st.Under = &state.Under{Asked: asked, DryRun: o.DryRun} })
	defer f.r.live.set(func(st *Status) { st.Under = nil })
	result, err := s.Run(whole, wanted)
	if phase := f.r.live.phase(); err != nil && !result.Sealed && phase != Following && phase != Finished && !errors.Is(err, state.ErrOvertaken) {
		f.mu.Lock()
		f.halfway = true
		f.mu.Unlock()
	}
	return result, err
}

// afterInterruptedCutover decides for a run that finds the phase Fenced or Drained: if the fence is
// sealed the cutover is finished. Otherwise the fence is taken down, and the migration follows
// again.
func (r *runner) afterInterruptedCutover(ctx context.Context) (Phase, error) {
	s := r.newSwitch(CutoverOptions{}.fill(), func(line string) { r.c.Logger.Info("cutover: " + line) })
	done, err := s.Resume(ctx, r.live.phase() == Drained, r.rec.FencedAt, r.rec.DrainedAt)
	if err != nil {
		return "", err
	}
	if !done {
		return Following, nil // which takes down what stands
	}
	return Finished, nil
}

func (r *runner) phaseGate(context.Context) error {
	if phase := r.live.phase(); phase != Following {
		return &fail.Error{Kind: fail.Gate, Problem: "the migration is in phase " + string(phase) + ", not following", Advice: "wait until it follows"}
	}
	return nil
}

// switched notes that a cutover is done.
func (r *runner) switched(result *CutoverResult) {
	r.live.set(func(st *Status) { st.Phase, r.cutover = Finished, result })
}

// carrier carries the source's sequences over to the target.
func (r *runner) carrier() *cutover.Carrier {
	return &cutover.Carrier{
		From: r.source, To: r.target, Store: r.store, Tables: r.tables.Selected,
		Alter: func(ctx context.Context, patience time.Duration, sql string) error {
			return r.opening.Transaction(ctx, patience, nil, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, sql)
				return err
			})
		},
	}
}

// undoLate tries again what a cutover that was undone could not undo then.
func (f *following) undoLate(ctx context.Context) {
	f.mu.Lock()
	closed, halfway := f.closed, f.halfway
	f.mu.Unlock()
	if closed {
		say := func(text string) { f.r.c.Logger.Warn(text) }
		err := wait.Within(ctx, 5*time.Second, func(ctx context.Context) error {
			return f.r.fence.TakeDown(ctx, f.r.store.Run(), func() { say("un-fenced") }, say)
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
		if err := f.r.definitions.DropKeys(ctx); err != nil {
			return err
		}
		return f.r.advance(ctx, Following)
	})
	if err != nil && !errors.Is(err, state.ErrOvertaken) { // then another one has it
		f.r.c.Logger.Debug("undo the cutover", "error", err)
		return
	}
	f.mu.Lock()
	f.halfway = false
	f.mu.Unlock()
}
