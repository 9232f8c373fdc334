package cutover

import (
	"context"
	"time"
)

// Resume is for a run that finds an interrupted switch. A sealed fence has refused every write
// since it was raised, so the rest of the switch is done. Any other fence is to be taken down, and
// the migration to follow again: then done is false. WayBack is not nil if that has begun. drained
// says that To is recorded to have the last change; fencedAt and drainedAt are when that was.
func (s *Switch) Resume(ctx context.Context, drained bool, fencedAt, drainedAt *time.Time) (done bool, err error) {
	if s.conn, err = s.connectFrom(ctx, "fence"); err != nil {
		return false, err
	}
	defer s.close(ctx)
	stands, err := Look(ctx, s.conn, s.Name)
	if err != nil {
		return false, err
	}
	if !drained || !stands.Sealed || !stands.Covers(s.Tables()) {
		s.Logger.Warn("a " + s.Sides.Switch() + " was interrupted before its end: un-fencing and following again")
		return false, nil // what follows takes down what stands
	}
	s.Logger.Warn("a " + s.Sides.Switch() + " was interrupted after the fence was sealed: finishing it")
	s.fence = Fence{Name: s.Name, Run: s.Store.Run(), Pass: s.Pass, Sides: s.Sides}
	s.since = time.Now()
	if fencedAt != nil {
		s.since = *fencedAt
	}
	s.result = &Result{Sides: s.Sides, FencedAt: fencedAt, DrainedAt: drainedAt, Tables: stands.Triggers}
	if s.WayBack != nil {
		s.result.WayBack = &Armed{From: (*LSNText)(&s.Began)}
	}
	s.recipe.Forward, s.recipe.Steps = true, s.rest()
	err = s.run(ctx, ctx)
	return err == nil, err
}

// rest returns the steps of a run that finds a sealed fence: there is only the way forward. The run
// that sealed it may have completed everything before the opening; but if it did not learn of its
// seal it may have died while undoing.
func (s *Switch) rest() []Step {
	log := s.Logger
	return append([]Step{
		{Name: stepAdopt, Do: func(ctx context.Context) error { return s.fence.Adopt(ctx, s.conn) }},
		{Name: stepSequences, Optional: true, Do: func(ctx context.Context) error {
			err := s.carryLeft(ctx)
			if err != nil {
				log.Warn("the sequences stay as the run that sealed the fence has set them", "reason", err)
			}
			return err
		}},
		{Name: stepSnapshots, Optional: true, Do: func(ctx context.Context) error {
			err := s.connectProver(ctx)
			if err == nil {
				err = s.openProver(ctx)
			}
			if err != nil { // the target must be opened all the same
				log.Error("both sides cannot be compared as of the "+s.Sides.Switch(), "error", err)
				s.result.Comparison = &Comparison{Sides: s.Sides, Error: s.Sides.Reword(err.Error())}
				s.prover.close()
				s.prover = nil
			}
			return err
		}},
		{Name: stepKeys, Do: func(ctx context.Context) error {
			if err := s.findKeys(ctx); err != nil {
				return err
			}
			return s.createKeys(ctx)
		}},
		{Name: stepAhead, Optional: true, Within: aheadPatience, Do: s.keepAhead},
		{Name: stepOpen, Do: s.conclude},
	}, s.afterOpen()...)
}
