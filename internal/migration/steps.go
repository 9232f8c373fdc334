package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
)

// The names of the steps of a switch, in their order. They are recorded.
const (
	stepAlone      = "alone"      // nobody else holds the applier
	stepPhase      = "phase"      // the gates, from here on
	stepIdentity   = "identity"   //
	stepLag        = "lag"        //
	stepWriters    = "writers"    //
	stepCompared   = "compared"   //
	stepStatistics = "statistics" //
	stepSchema     = "schema"     //
	stepActions    = "actions"    // what the opening will run is tried
	stepDefinition = "sequence definitions"
	stepWords      = "words" // to the last of the gates: from here on something is changed on the source
	stepConnect    = "connect"
	stepLook       = "look"
	stepProver     = "connect the comparison"
	stepFindKeys   = "find foreign keys"
	stepTriggers   = "put up the fence"
	stepQuiet      = "quiet moment"
	stepFence      = "fence"
	stepDrain      = "drain"
	stepDrained    = "record that it drained"
	stepSequences  = "sequences"
	stepKeys       = "foreign keys"
	stepSnapshots  = "open the comparison"
	stepPassed     = "nobody has passed"
	stepPrepare    = "prepare the opening"
	stepPassedLast = "nobody has passed by the seal"
	stepSeal       = "seal"
	stepAdopt      = "adopt" // in the place of all before it, in a run that finds a sealed fence
	stepOpen       = "open"
	stepSmall      = "compare small tables"
	stepViews      = "refresh views"
	stepRest       = "enable the rest"
	stepCompare    = "compare"
	stepValidate   = "validate foreign keys"
)

// steps are those of the switch that was asked for. Nothing is changed before the gates are passed.
func (s *switching) steps() []cutover.Step {
	steps := s.gates()
	if s.o.DryRun && s.o.NoFence {
		return steps
	}
	steps = append(steps,
		cutover.Step{Name: stepWords, Do: s.settleWords},
		cutover.Step{Name: stepConnect, Do: s.connect},
		cutover.Step{Name: stepLook, Do: s.look, Undo: s.followAgain},
	)
	if !s.o.DryRun {
		steps = append(steps, cutover.Step{Name: stepProver, Do: s.connectProver, Undo: s.dropProver})
	}
	steps = append(steps,
		cutover.Step{Name: stepFindKeys, Do: s.findKeys, Undo: s.dropKeysAtLast},
		cutover.Step{Name: stepTriggers, Do: func(ctx context.Context) error { return s.fence.Prepare(ctx, s.conn) }, Undo: s.unfence},
		cutover.Step{Name: stepQuiet, Do: s.quietMoment},
		cutover.Step{Name: stepFence, Do: s.raise, Undo: s.unfence},
		cutover.Step{Name: stepDrain, Do: s.drain},
	)
	if s.o.DryRun {
		return steps
	}
	steps = append(steps,
		cutover.Step{Name: stepDrained, Do: s.drained},
		cutover.Step{Name: stepSequences, Do: s.setSequences},
		cutover.Step{Name: stepKeys, Do: s.createKeys, Undo: s.dropKeys, UndoWithin: lateKeysPatience},
		cutover.Step{Name: stepSnapshots, Do: s.openProver, Undo: s.dropProver},
		// What is a claim of the fence's until here is proved by the stream; once more when the target's
		// tables are locked: there may have been locks to wait for, and what comes through then cannot be applied.
		cutover.Step{Name: stepPassed, Do: s.proveFence},
		cutover.Step{Name: stepPrepare, Do: s.prepareOpening, Undo: s.dropOpening},
		cutover.Step{Name: stepPassedLast, Do: s.proveFence},
		cutover.Step{Name: stepSeal, Do: func(ctx context.Context) error { return s.fence.Seal(ctx, s.conn) }, Seal: true},
		// Nothing can be taken back, whatever the deadline says, or a signal.
		cutover.Step{Name: stepOpen, Do: s.conclude, Within: 10 * time.Minute},
	)
	return append(steps, s.afterOpen()...)
}

// gates are the conditions for a switch.
func (s *switching) gates() []cutover.Step {
	r := s.r
	source := func(gate func(context.Context, *pgx.Conn) error) func(context.Context) error {
		return func(ctx context.Context) error {
			return r.source.Do(ctx, func(conn *pgx.Conn) error { return gate(ctx, conn) })
		}
	}
	return []cutover.Step{
		{Name: stepAlone, Do: func(ctx context.Context) (err error) { s.alone, err = s.f.beginCutting(ctx); return err }},
		{Name: stepPhase, Do: s.phaseGate},
		// Before the barrier, which does not come back where the publication was altered.
		{Name: stepIdentity, Do: func(ctx context.Context) (err error) { s.mark, err = r.identityGate(ctx, r.source); return err }},
		{Name: stepLag, Do: s.lagGate},
		{Name: stepWriters, Do: source(func(ctx context.Context, conn *pgx.Conn) error {
			if err := noPrepared(ctx, conn); err != nil {
				return err
			}
			return r.writerGates(ctx, conn)
		})},
		{Name: stepCompared, Do: func(ctx context.Context) error { return r.comparisonGate(ctx, s.o) }},
		{Name: stepStatistics, Do: func(ctx context.Context) error { return r.statisticsGate(ctx, s.say) }},
		{Name: stepSchema, Do: func(ctx context.Context) error { return r.schemaGate(ctx, s.o.Without) }},
		{Name: stepActions, Do: func(ctx context.Context) error { return r.openingGate(ctx, s.o, s.say) }},
		{Name: stepDefinition, Do: func(ctx context.Context) (err error) { s.gated, err = r.sequenceGate(ctx, s.o, s.say); return err }},
	}
}

func (s *switching) phaseGate(context.Context) error {
	if phase := s.r.phase(); phase != Following {
		return &GateError{Problem: fmt.Sprintf("the migration is in phase %s, not following", phase), Advice: "wait until it follows"}
	}
	return nil
}

// lagGate: what is committed on the source comes through soon enough.
func (s *switching) lagGate(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, s.o.MaxLag)
	lag, err := s.f.canary(within)
	cancel()
	if err == nil && lag <= s.o.MaxLag {
		s.result.LagMS = lag.Milliseconds()
		return nil
	}
	gate := &GateError{Problem: fmt.Sprintf("the target lags: what was committed on the source had not come through after %s (--max-lag)", s.o.MaxLag), Advice: "wait until `walferry status` shows less lag, or allow more"}
	if holders := s.r.inApplierWay(ctx); len(holders) > 0 {
		gate.Problem += "; the applier waits for a lock on the target, held by " + online.List(holders)
		gate.Advice = "on the target, " + online.EndHint(holders) + "; then ask again"
	}
	return gate
}

// settleWords makes the words of --insert-only hold, until the end of the switch.
func (s *switching) settleWords(ctx context.Context) error {
	s.words = make(chan struct{})
	return s.f.settleWords(ctx, s.words, s.say)
}

// connect says, before anything is changed on the source, how it is taken back by hand.
func (s *switching) connect(ctx context.Context) (err error) {
	s.say("to un-fence by hand, on the source:\n" + cutover.UnfenceSQL(s.r.c.Name))
	s.conn, err = openSource(ctx, s.r.c, "fence")
	return err
}

func (s *switching) look(ctx context.Context) (err error) {
	s.fence, _, err = cutover.NewFence(ctx, s.conn, s.r.c.Name, s.r.tables)
	s.fence.Waits, s.fence.Run = s.say, s.r.store.Run()
	return err
}

// followAgain records, when everything is undone, that it is.
func (s *switching) followAgain(ctx context.Context, _ error) error {
	if s.o.DryRun { // which has never recorded anything else
		return nil
	}
	return s.r.advance(ctx, Following)
}

func (s *switching) connectProver(ctx context.Context) (err error) {
	s.prover, err = s.r.connectProver(ctx)
	return err
}

func (s *switching) openProver(ctx context.Context) error { return s.prover.open(ctx) }

func (s *switching) dropProver(context.Context, error) error {
	s.prover.close()
	s.prover = nil
	return nil
}

func (s *switching) findKeys(ctx context.Context) (err error) {
	s.keys, err = s.r.prepareLateKeys(ctx)
	return err
}

func (s *switching) createKeys(ctx context.Context) error {
	return s.r.createLateKeys(ctx, s.keys, s.say)
}

// lateKeysPatience is how long the source stays closed, when a switch is taken back, for what is to
// be undone on the target first.
const lateKeysPatience = 5 * time.Second

// dropKeys undoes createKeys while the fence is up and nothing comes that cascades could act on. But the
// source is not kept closed by a target that does not answer, or whose tables somebody has: then the
// applier stands still, and dropKeysAtLast goes on when the source is open.
func (s *switching) dropKeys(ctx context.Context, _ error) error {
	if err := s.r.dropLateForeignKeys(ctx); err != nil {
		s.r.c.Logger.Debug("drop foreign keys until the next cutover: once more when the source is open", "error", err)
		s.goOn = s.f.standStill(ctx)
	}
	return nil
}

func (s *switching) dropKeysAtLast(ctx context.Context, _ error) error {
	if s.goOn == nil {
		return nil
	}
	return s.r.dropLateForeignKeys(ctx)
}

// unfence takes the fence down, raised or only put up.
func (s *switching) unfence(ctx context.Context, _ error) error {
	if s.opened {
		return nil
	}
	s.opened = true
	err := s.r.unfenceOwn(ctx, func() {
		if !s.since.IsZero() {
			s.result.PauseMS = time.Since(s.since).Milliseconds()
			s.say("un-fenced")
		}
	}, s.say)
	var closed *stillFencedError
	if errors.As(err, &closed) {
		s.f.mu.Lock()
		s.f.closed = true
		s.f.mu.Unlock()
		s.say("UN-FENCING FAILED: migrate goes on trying; run the SQL printed above on the source; unless it was being sealed, the fence also opens by itself at its deadline: " + err.Error())
	}
	return err
}

// raise closes the fence. The phase is recorded before: a run that finds it takes the fence down.
func (s *switching) raise(ctx context.Context) error {
	if !s.o.DryRun {
		if err := s.r.advance(ctx, Fenced); err != nil {
			return err
		}
	}
	raising, cancel := context.WithTimeout(ctx, s.o.forFence())
	position, since, err := s.fence.Raise(raising, s.conn, s.o.Timeout)
	cancel()
	s.since = since
	if err != nil {
		return err
	}
	s.result.FencedAt, s.result.Tables, s.result.position = &since, len(s.fence.Tables), position
	if s.o.DryRun {
		return nil
	}
	return s.r.store.SetFenced(ctx, since)
}

// drain waits until the target has every change of before the fence.
func (s *switching) drain(ctx context.Context) error {
	// The beat is written after the fence: when it has come back, everything has.
	if _, err := s.f.canary(ctx); err != nil {
		if holders := s.r.inApplierWay(ctx); len(holders) > 0 {
			return fmt.Errorf("drain: the applier waits for a lock on the target, held by %s: %w", online.List(holders), err)
		}
		return fmt.Errorf("drain: %w", err)
	}
	// The applier itself may not know yet what the target has committed: ask the target,
	// as for everything that is durable.
	applied, err := s.r.applied(ctx)
	if err != nil {
		return fmt.Errorf("drain: read the progress: %w", err)
	}
	if applied < s.result.position {
		return fmt.Errorf("drain: the beat came back at %s, before the fence's position %s", applied, s.result.position)
	}
	if err := errors.Join(s.f.passed(s.result.position), s.r.wordsHold(ctx)); err != nil {
		return err
	}
	now := time.Now()
	s.result.DrainedAt = &now
	return nil
}

func (s *switching) drained(ctx context.Context) (err error) {
	if err := s.r.store.SetDrained(ctx, *s.result.DrainedAt); err != nil {
		return err
	}
	if err := s.r.advance(ctx, Drained); err != nil {
		return err
	}
	_, s.result.Recopied, err = s.r.words(ctx)
	return err
}

func (s *switching) setSequences(ctx context.Context) (err error) {
	s.result.Sequences, err = s.r.setSequences(ctx, s.conn, s.gated)
	return err
}

// proveFence makes sure that nobody has passed the fence, and that the source is what it was at the gates.
func (s *switching) proveFence(ctx context.Context) error {
	if _, err := s.f.canary(ctx); err != nil {
		return fmt.Errorf("look whether anybody has passed the fence: %w", err)
	}
	return errors.Join(s.f.passed(s.result.position), s.fence.Unchanged(ctx, s.conn), s.lastGate(ctx))
}

// lastGate is the identityGate inside the fence. DDL is not fenced: what was made, dropped or attached since
// the gates were passed shows here. Where nothing was, one query tells, as writers are waiting.
func (s *switching) lastGate(ctx context.Context) error {
	mark, err := markOf(ctx, session.Lend(s.conn))
	if err != nil || mark == s.mark {
		return err
	}
	s.mark, err = s.r.identityGate(ctx, session.Lend(s.conn))
	return err
}

func (s *switching) prepareOpening(ctx context.Context) (err error) {
	s.opening, err = s.r.prepareOpening(ctx, s.say)
	return err
}

func (s *switching) dropOpening(context.Context, error) error {
	s.opening.close()
	s.opening = nil
	return nil
}
