package migration

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
)

// What is known of a cutover.
type (
	CutoverResult   = cutover.Result
	LeftOut         = cutover.LeftOut
	Comparison      = cutover.Comparison
	DifferenceError = cutover.DifferenceError
	UnprovedError   = cutover.UnprovedError
	DisabledError   = cutover.DisabledError
)

// newSwitch is the switch from the source to the target.
func (r *runner) newSwitch(o CutoverOptions, told func(string)) *cutover.Switch {
	s := &cutover.Switch{
		Name: r.c.Name, From: cutover.End{DSN: r.c.Source, Link: r.source}, To: cutover.End{DSN: r.c.Target, Link: r.target},
		Tables: r.selected, Waiting: waiting{r}, Sequences: r.carrier(), Identity: r.identityGate,
		Store: r.store, Advance: r.advance, Finished: r.switched,
		Timeout: o.Timeout, MaxLag: o.MaxLag, Rehearse: o.DryRun, NoFence: o.NoFence, Jobs: r.c.Jobs,
		Told: told, Logger: r.c.Logger,
	}
	if r.c.Prove == On {
		s.Proof = &cutover.Proof{Tables: r.migrated, Ruled: r.tablesWithHeldRules}
	}
	s.Observers = []cutover.Observer{func(context.Context, state.Taken) error {
		r.mu.Lock()
		r.status.Cutover.Steps = s.Taken()
		r.mu.Unlock()
		return nil
	}}
	s.Gates = []cutover.Step{
		{Name: cutover.GatePhase, Do: r.phaseGate},
		// Before the barrier, which does not come back where the publication was altered.
		{Name: cutover.GateIdentity, Do: s.IdentityGate},
		{Name: cutover.GateLag, Do: s.LagGate},
		{Name: cutover.GateWriters, Do: s.WritersGate},
		{Name: cutover.GateCompared, Do: func(ctx context.Context) error { return r.comparisonGate(ctx, o) }},
		{Name: cutover.GateStatistics, Do: s.StatisticsGate},
		{Name: cutover.GateSchema, Do: func(ctx context.Context) error { return r.schemaGate(ctx, o.Without) }},
		{Name: cutover.GateActions, Do: func(ctx context.Context) error { return r.openingGate(ctx, o, told) }},
		{Name: cutover.GateSequences, Do: s.SequencesGate},
	}
	return s
}

// cutover switches from the source to the target. See cutover.Switch.
func (f *following) cutover(whole, wanted context.Context, o CutoverOptions, step func(string)) (*CutoverResult, error) {
	s := f.r.newSwitch(o, step)
	s.Flow = stream{f}
	s.Closed = func() {
		f.mu.Lock()
		f.closed = true
		f.mu.Unlock()
	}
	return s.Run(whole, wanted)
}

// afterInterruptedCutover decides for a run that finds the phase Fenced or Drained: the cutover is
// finished where its fence is sealed. Otherwise the fence is taken down, and the migration follows on.
func (r *runner) afterInterruptedCutover(ctx context.Context) (Phase, error) {
	s := r.newSwitch(CutoverOptions{}.fill(), func(line string) { r.c.Logger.Info("cutover: " + line) })
	done, err := s.Resume(ctx, r.phase() == Drained, r.rec.FencedAt, r.rec.DrainedAt)
	if err != nil {
		return "", err
	}
	if !done {
		return Following, nil // which takes down what stands
	}
	return Finished, nil
}

func (r *runner) phaseGate(context.Context) error {
	if phase := r.phase(); phase != Following {
		return &GateError{Problem: "the migration is in phase " + string(phase) + ", not following", Advice: "wait until it follows"}
	}
	return nil
}

func (r *runner) selected() []catalog.Table { return r.tables }

// switched notes that a cutover is done.
func (r *runner) switched(result *CutoverResult) {
	r.mu.Lock()
	r.rec.Phase, r.cutover = Finished, result
	r.mu.Unlock()
}

// carrier carries the source's sequences over to the target.
func (r *runner) carrier() *cutover.Carrier {
	return &cutover.Carrier{
		From: r.source, To: r.target, Store: r.store, Tables: r.selected,
		Alter: func(ctx context.Context, patience time.Duration, sql string) error {
			return r.onTarget(ctx, patience, nil, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, sql)
				return err
			})
		},
	}
}

// fence is that of the migration, as it may stand on the source.
func (r *runner) fence() cutover.Standing {
	return cutover.Standing{Name: r.c.Name, DSN: r.c.Source, Store: r.store}
}

// openLate tries again to un-fence after a cutover that could not when it was taken back.
func (f *following) openLate(ctx context.Context) {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if !closed {
		return
	}
	say := func(text string) { f.r.c.Logger.Warn(text) }
	err := within(ctx, 5*time.Second, func(ctx context.Context) error {
		return f.r.fence().TakeDown(ctx, f.r.store.Run(), func() { say("un-fenced") }, say)
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

// stream is what a cutover needs of what is followed.
type stream struct{ f *following }

func (s stream) Alone(ctx context.Context) (end func(), err error) { return s.f.beginCutting(ctx) }

func (s stream) Canary(ctx context.Context) (time.Duration, error) { return s.f.canary(ctx) }

func (s stream) Beat(ctx context.Context) error {
	beat, err := s.f.writeBeat(ctx)
	s.f.beats.forget(beat)
	return err
}

func (s stream) Applied(ctx context.Context) (decoder.LSN, error) { return s.f.r.applied(ctx) }

func (s stream) Passed(position decoder.LSN) error { return s.f.passed(position) }

func (s stream) StandStill(ctx context.Context, moment time.Duration) (goOn func()) {
	return s.f.standStill(ctx, moment)
}

func (s stream) AwaitWriters(ctx context.Context, patience time.Duration, tell func(string)) error {
	_, err := s.f.r.waitForWriters(ctx, patience, tell)
	return err
}

func (s stream) InApplierWay(ctx context.Context) []online.Holder { return s.f.r.inApplierWay(ctx) }

func (s stream) SettleWords(ctx context.Context, done <-chan struct{}, tell func(string)) error {
	return s.f.settleWords(ctx, done, tell)
}

func (s stream) WordsHold(ctx context.Context) error { return s.f.r.wordsHold(ctx) }

func (s stream) CopiedAgain(ctx context.Context) (tables []string, err error) {
	_, tables, err = s.f.r.words(ctx)
	return tables, err
}

// standStill keeps the applier from applying anything, if it can be held in a moment, until the
// returned function is called.
func (f *following) standStill(ctx context.Context, moment time.Duration) (goOn func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), moment)
	defer cancel()
	select {
	case f.holding <- struct{}{}:
	case <-ctx.Done():
		return func() {}
	}
	if _, err := f.pause(ctx, 0); err != nil {
		f.letGo()
		return func() {}
	}
	return f.letGo
}

// inApplierWay are those whose locks on the target the applier waits for now, also when the time is over.
func (r *runner) inApplierWay(ctx context.Context) (holders []online.Holder) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := r.target.Do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select `+online.HolderColumns+`
  from pg_stat_activity w cross join lateral unnest(pg_blocking_pids(w.pid)) as l(pid) left join pg_stat_activity a on a.pid = l.pid
 where w.datname = current_database() and w.application_name = $1
 group by l.pid order by 4 desc`, "walferry "+r.c.Name+" apply")
		if err != nil {
			return err
		}
		holders, err = pgx.CollectRows(rows, pgx.RowToStructByPos[online.Holder])
		return err
	})
	if err != nil {
		r.c.Logger.Debug("look who is in the applier's way", "error", err)
	}
	return holders
}
