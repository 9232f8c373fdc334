package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// The names of the steps of a switch, in their order. They are recorded.
const (
	stepAlone      = "alone"      // nobody else holds the applier
	GatePhase      = "phase"      // the gates, from here on
	GateIdentity   = "identity"   //
	GateLag        = "lag"        //
	GateWriters    = "writers"    //
	GateCompared   = "compared"   //
	GateStatistics = "statistics" //
	GateSchema     = "schema"     //
	GateActions    = "actions"    // what the opening will run is tried
	GateSequences  = "sequence definitions"
	GateClients    = "clients"
	stepWords      = "words" // to the last of the gates: from here on something is changed on the source
	stepConnect    = "connect"
	stepLook       = "look"
	stepProver     = "connect the comparison"
	stepArm        = "arm the way back"
	stepFindKeys   = "find foreign keys"
	stepTriggers   = "put up the fence"
	stepQuiet      = "quiet moment"
	stepHold       = "hold clients"
	stepFence      = "fence"
	stepFenced     = "tell that it is fenced"
	stepDrain      = "drain"
	stepDrained    = "record that it drained"
	stepSequences  = "sequences"
	stepKeys       = "foreign keys"
	stepSnapshots  = "open the comparison"
	stepRedirect   = "redirect clients"
	stepPassed     = "nobody has passed"
	stepPrepare    = "prepare the opening"
	stepPassedLast = "nobody has passed by the seal"
	stepBegin      = "begin the way back"
	stepSeal       = "seal"
	stepAhead      = "keep sequences ahead"
	stepAdopt      = "adopt" // instead of all before it, in a run that finds a sealed fence
	stepOpen       = "open"
	stepRelease    = "release clients"
	stepTakeDown   = "take down the fence that stood"
	stepSmall      = "compare small tables"
	stepViews      = "refresh views"
	stepRest       = "enable the rest"
	stepCompare    = "compare"
	stepValidate   = "validate foreign keys"
)

// steps returns those of the switch that was asked for. Nothing is changed before the gates are
// passed.
func (s *Switch) steps() []Step {
	steps := append([]Step{
		{Name: stepAlone, Do: func(ctx context.Context) (err error) { s.alone, err = s.Flow.Alone(ctx); return err }},
	}, s.Gates...)
	if s.Clients != nil { // after all the others: nobody is asked in vain
		steps = append(steps, Step{Name: GateClients, Do: s.clientsReady})
	}
	if s.Rehearse && s.NoFence {
		return steps
	}
	steps = append(steps,
		Step{Name: stepWords, Do: s.settleWords},
		Step{Name: stepConnect, Do: s.connect},
		Step{Name: stepLook, Do: s.look, Undo: s.followAgain},
	)
	if s.WayBack != nil { // outside of the fence: a slot waits for open transactions of To
		steps = append(steps, Step{Name: stepArm, Do: s.arm, Undo: func(ctx context.Context, _ error) error { s.disarm(ctx); return nil }})
	}
	if !s.Rehearse {
		steps = append(steps, Step{Name: stepProver, Do: s.connectProver, Undo: s.dropProver})
	}
	steps = append(steps,
		Step{Name: stepFindKeys, Do: s.findKeys, Undo: s.dropKeysAtLast},
		Step{Name: stepTriggers, Do: func(ctx context.Context) error { return s.fence.Prepare(ctx, s.conn) }, Undo: s.unfence},
		Step{Name: stepQuiet, Do: s.quietMoment},
	)
	if s.Clients != nil { // a moment before anything is refused
		steps = append(steps, Step{Name: stepHold, Do: s.hold, Undo: s.undoHold})
	}
	steps = append(steps, Step{Name: stepFence, Do: s.raise, Undo: s.unfence})
	if s.Clients != nil {
		steps = append(steps, Step{Name: stepFenced, Do: s.tellFenced})
	}
	steps = append(steps, Step{Name: stepDrain, Do: s.drain})
	if s.Rehearse {
		return steps
	}
	steps = append(steps,
		Step{Name: stepDrained, Do: s.drained},
		Step{Name: stepSequences, Do: s.setSequences},
		Step{Name: stepKeys, Do: s.createKeys, Undo: s.dropKeys, UndoWithin: lateKeysPatience},
		Step{Name: stepSnapshots, Do: s.openProver, Undo: s.dropProver},
	)
	if s.Clients != nil { // what is held goes nowhere yet, and this is the most likely to fail
		steps = append(steps, Step{Name: stepRedirect, Do: s.redirect, Undo: s.takeBack})
	}
	steps = append(steps,
		// What only the fence has promised until here is checked by the stream; once more when the
		// target's tables are locked: there may have been locks to wait for, and what comes through
		// then cannot be applied.
		Step{Name: stepPassed, Do: s.checkFence},
		Step{Name: stepPrepare, Do: s.prepareOpening, Undo: s.dropOpening},
		Step{Name: stepPassedLast, Do: s.checkFence},
	)
	if s.WayBack != nil { // nothing of the switch's own is written to tables of To any more
		steps = append(steps, Step{Name: stepBegin, Do: s.begin})
	}
	steps = append(steps,
		Step{Name: stepSeal, Do: func(ctx context.Context) error { return s.fence.Seal(ctx, s.conn) }, Seal: true},
	)
	if s.WayBack != nil {
		steps = append(steps, Step{Name: stepAhead, Optional: true, Within: aheadPatience, Do: s.keepAhead})
	}
	steps = append(steps,
		// Nothing can be undone, whatever the deadline says, or a signal.
		Step{Name: stepOpen, Do: s.conclude, Within: 10 * time.Minute},
	)
	return append(steps, s.afterOpen()...)
}

// settleWords has the words of --insert-only hold, until the end of the switch.
func (s *Switch) settleWords(ctx context.Context) error {
	s.words = make(chan struct{})
	return s.Flow.SettleWords(ctx, s.words, s.say)
}

// connect prints, before anything is changed on the source, how it is undone by hand.
func (s *Switch) connect(ctx context.Context) (err error) {
	s.say("to un-fence by hand, on the " + s.Sides.From() + ":\n" + UnfenceSQL(s.Name))
	s.conn, err = s.connectFrom(ctx, "fence")
	return err
}

func (s *Switch) look(ctx context.Context) (err error) {
	s.fence, _, err = NewFence(ctx, s.conn, s.Name, s.Tables())
	s.fence.Waits, s.fence.Run, s.fence.Pass, s.fence.Sides = s.waits, s.Store.Run(), s.Pass, s.Sides
	return err
}

// followAgain records, once everything is undone, that the migration follows again.
func (s *Switch) followAgain(ctx context.Context, _ error) error {
	if s.Rehearse { // which has never recorded anything else
		return nil
	}
	return s.Advance(ctx, state.Following)
}

func (s *Switch) connectProver(ctx context.Context) (err error) {
	s.prover, err = s.newProver(ctx)
	return err
}

func (s *Switch) openProver(ctx context.Context) error { return s.prover.open(ctx) }

func (s *Switch) dropProver(context.Context, error) error {
	s.prover.close()
	s.prover = nil
	return nil
}

func (s *Switch) findKeys(ctx context.Context) (err error) {
	s.keys, err = s.Definitions.FindKeys(ctx)
	return err
}

func (s *Switch) createKeys(ctx context.Context) error {
	if s.keys == nil {
		return nil
	}
	return s.keys.Create(ctx, s.say)
}

// lateKeysPatience is how long the source stays closed, when a switch is undone, for what is to be
// undone on the target first.
const lateKeysPatience = 5 * time.Second

// dropKeys undoes createKeys while the fence is up and nothing comes that cascades could act on.
// But a target that does not answer, or whose tables are in use, does not keep the source closed:
// then the applier stands still, and dropKeysAtLast continues once the source is open.
func (s *Switch) dropKeys(ctx context.Context, _ error) error {
	if err := s.Definitions.DropKeys(ctx); err != nil {
		s.Logger.Debug("drop foreign keys until the next "+s.Sides.Switch()+": once more when the "+s.Sides.From()+" is open", "error", err)
		s.goOn = s.Flow.StandStill(ctx, lateKeysPatience)
	}
	return nil
}

func (s *Switch) dropKeysAtLast(ctx context.Context, _ error) error {
	if s.goOn == nil {
		return nil
	}
	return s.Definitions.DropKeys(ctx)
}

// unfence takes the fence down, raised or only put up.
func (s *Switch) unfence(ctx context.Context, why error) error {
	if s.opened {
		return nil
	}
	s.opened = true
	err := Standing{Name: s.Name, DSN: s.From.DSN, Store: s.Store, Sides: s.Sides}.takeDownOwn(ctx, func() {
		if !s.since.IsZero() {
			s.result.PauseMS = time.Since(s.since).Milliseconds()
			s.say("un-fenced")
		}
		if err := s.letGo(ctx, why); err != nil { // which is tried again when the hold is undone
			s.say(err.Error())
		}
	}, s.say)
	var closed *StillFencedError
	if errors.As(err, &closed) {
		s.Closed()
		s.say("UN-FENCING FAILED: migrate keeps trying; run the SQL printed above on the " + s.Sides.From() + "; unless it was being sealed, the fence also opens on its own at its deadline: " + err.Error())
	}
	return err
}

// openLeft opens what this run has raised and another one, which has taken the migration over, has
// not seen: nothing else is undone then.
func (s *Switch) openLeft(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	conn, err := s.connectFrom(ctx, "un-fence")
	if err == nil {
		defer conn.Close(ctx) //nolint:errcheck // nothing is under way on it
		var opened bool
		if opened, err = openLeft(ctx, conn, s.Name, s.Store.Run()); opened {
			s.say("un-fenced: what this run had raised was still up")
		}
	}
	if err != nil {
		s.Logger.Error("open what this run may have left of its fence, which otherwise opens at its deadline", "error", err)
	}
}

// raise closes the fence. The phase is recorded before: a run that finds it takes the fence down.
func (s *Switch) raise(ctx context.Context) error {
	if !s.Rehearse {
		if err := s.Advance(ctx, state.Fenced); err != nil {
			return err
		}
	}
	raising, cancel := context.WithTimeout(ctx, s.forFence())
	position, since, err := s.fence.Raise(raising, s.conn, s.Timeout)
	cancel()
	s.since = since
	if err != nil {
		return err
	}
	s.result.FencedAt, s.result.Tables, s.position = &since, len(s.fence.Tables), position
	if s.Rehearse {
		return nil
	}
	return s.Store.SetFenced(ctx, since)
}

// drain waits until the target has every change made before the fence.
func (s *Switch) drain(ctx context.Context) error {
	// The beat is written after the fence: when it has come back, everything has.
	if _, err := s.Flow.Canary(ctx); err != nil {
		if holders := s.Flow.InApplierWay(ctx); len(holders) > 0 {
			return fmt.Errorf("drain: the applier waits for a lock on the %s, held by %s: %w", s.Sides.To(), online.List(holders), err)
		}
		return fmt.Errorf("drain: %w", err)
	}
	// The applier itself may not know yet what the target has committed: ask the target, as for
	// everything that is durable.
	applied, err := s.Flow.Applied(ctx)
	if err != nil {
		return fmt.Errorf("drain: read the progress: %w", err)
	}
	if applied < s.position {
		return fmt.Errorf("drain: the beat came back at %s, before the fence's position %s", applied, s.position)
	}
	if err := errors.Join(s.Flow.Passed(s.position), s.Flow.WordsHold(ctx)); err != nil {
		return err
	}
	now := time.Now()
	s.result.DrainedAt = &now
	return nil
}

func (s *Switch) drained(ctx context.Context) (err error) {
	if err := s.Store.SetDrained(ctx, *s.result.DrainedAt); err != nil {
		return err
	}
	if err := s.Advance(ctx, state.Drained); err != nil {
		return err
	}
	s.result.Recopied, err = s.Flow.CopiedAgain(ctx)
	return err
}

func (s *Switch) setSequences(ctx context.Context) (err error) {
	s.result.Sequences, err = s.Sequences.Set(ctx, s.conn)
	return err
}

// checkFence makes sure that nobody has passed the fence, and that the source is what it was at the
// gates.
func (s *Switch) checkFence(ctx context.Context) error {
	if _, err := s.Flow.Canary(ctx); err != nil {
		return fmt.Errorf("check that nobody has passed the fence: %w", err)
	}
	return errors.Join(s.Flow.Passed(s.position), s.fence.Unchanged(ctx, s.conn), s.lastGate(ctx))
}

// lastGate is the IdentityGate inside the fence. DDL is not fenced: what was created, dropped or
// attached since the gates were passed shows here. If nothing was, one query shows it, as writers
// are waiting.
func (s *Switch) lastGate(ctx context.Context) error {
	mark, err := catalog.Mark(ctx, s.conn, session.Major(s.conn.PgConn()))
	if err != nil || mark == s.mark {
		return err
	}
	s.mark, err = s.Identity(ctx, session.Lend(s.conn))
	return err
}

func (s *Switch) prepareOpening(ctx context.Context) error {
	conn, err := s.Opening.Prepare(ctx, s.say)
	if err != nil {
		return err
	}
	s.opening = &opening{conn}
	if s.Stands.Name == "" {
		return nil
	}
	if _, err := conn.Exec(ctx, openFunction(s.Stands.Name, "")); err != nil {
		return fmt.Errorf("prepare the opening of the fence that stands on the %s: %w", s.Sides.To(), err)
	}
	return nil
}

func (s *Switch) dropOpening(context.Context, error) error {
	s.opening.close()
	s.opening = nil
	return nil
}
