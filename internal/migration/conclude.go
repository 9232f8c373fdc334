package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// finishedSQL records the end, and what is known of the cutover by then. What is held still stays recorded.
func (r *runner) finishedSQL(result CutoverResult, left []held) (string, error) {
	texts, err := heldTexts(left)
	if err != nil {
		return "", err
	}
	return r.store.FinishSQL(*result.FinishedAt, result.PauseMS, texts, result)
}

// conclude opens the target: the fence is sealed. Where
// the opening was prepared it is a COMMIT. Otherwise, as in a run that finds a cutover interrupted, what is held
// is enabled one by one, and what cannot be in a moment does not keep the target closed for the rest: the result has the SQL.
func (s *switching) conclude(ctx context.Context) error {
	r := s.r
	done := *s.result
	if s.prover != nil {
		done.Comparison = &Comparison{Error: unfinished}
	}
	end := func(left []leftHeld) (string, error) {
		now := time.Now()
		done.FinishedAt, done.PauseMS, done.Disabled = &now, now.Sub(s.since).Milliseconds(), sqlOf(left)
		return r.finishedSQL(done, actionsOf(left))
	}
	record, err := end(nil)
	if err == nil {
		err = s.opening.commit(ctx, record)
		s.opening.close()
		s.opening = nil
	}
	for ; err != nil; wait.Sleep(ctx, time.Second) { //nolint:errcheck // each attempt sees that ctx has ended
		if ctx.Err() != nil {
			return fmt.Errorf("open the target: %w", err)
		}
		if gone := r.store.Mine(ctx); errors.Is(gone, state.ErrOvertaken) {
			return gone
		}
		r.c.Logger.Warn("opening the target step by step", "reason", err)
		var left []leftHeld
		if left, err = r.enableHeld(ctx); err == nil {
			record, err = end(left)
		}
		if err == nil {
			err = r.target.Exec(ctx, record)
		}
		if err == nil {
			break
		}
	}
	*s.result = done
	r.mu.Lock()
	r.rec.Phase, r.cutover = Finished, s.result
	r.mu.Unlock()
	return nil
}

// afterOpen are the steps that may take their time: the target is in use. What fails in them
// takes nothing of the cutover back.
func (s *switching) afterOpen() []cutover.Step {
	var steps []cutover.Step
	add := func(name string, do func(context.Context) error) {
		steps = append(steps, cutover.Step{Name: name, Do: do, Optional: true})
	}
	if s.r.c.Prove == On {
		add(stepSmall, s.compareSmall)
	}
	if s.r.c.Schema != "none" {
		add(stepViews, s.refreshViews)
	}
	add(stepRest, s.enableRest)
	if s.r.c.Prove == On {
		add(stepCompare, s.prove)
	}
	add(stepValidate, s.validateKeys)
	return steps
}

func (s *switching) validateKeys(ctx context.Context) error {
	s.result.late = s.r.validateKeys(ctx, s.say)
	err := within(ctx, 10*time.Second, func(ctx context.Context) error { return addUnvalidated(ctx, s.r.target, s.r.store, s.result) })
	if s.result.late == nil {
		s.result.late = err
	}
	return s.result.late
}

// compareSmall comes first: whoever truncates a small table waits.
func (s *switching) compareSmall(ctx context.Context) error {
	s.prover.compareSmall(ctx)
	return nil
}

func (s *switching) refreshViews(ctx context.Context) error {
	n, err := s.r.refreshViews(ctx)
	if n > 0 {
		s.say(fmt.Sprintf("refreshed %d materialized views", n))
	}
	if err != nil {
		s.say("materialized views that are as they were after the copy; refresh them by hand: " + err.Error())
	}
	return err
}

// enableRest goes on with what the opening has left.
func (s *switching) enableRest(ctx context.Context) (err error) {
	result := s.result
	if len(result.Disabled) == 0 {
		return nil
	}
	if result.Disabled, err = s.r.enableRest(ctx, 30*time.Second); err != nil {
		s.say(err.Error())
	}
	for _, sql := range result.Disabled {
		s.say("to be run on the target: " + sql)
	}
	if err := s.r.keepResult(ctx, result, nil); err != nil {
		s.r.c.Logger.Error("record what is still disabled", "error", err)
	}
	return err
}
