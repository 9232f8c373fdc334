package migration

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/cutover"
)

// afterInterruptedCutover decides for a run that finds the phase Fenced or Drained:
// a sealed fence has refused every write since it was raised, so the rest of the
// cutover is done; any other is taken down, and the migration follows on.
func (r *runner) afterInterruptedCutover(ctx context.Context) (Phase, error) {
	conn, err := openSource(ctx, r.c, "fence")
	if err != nil {
		return "", err
	}
	s := &switching{r: r, conn: conn, told: func(line string) { r.c.Logger.Info("cutover: " + line) }}
	defer s.close(ctx)
	state, err := cutover.Look(ctx, conn, r.c.Name)
	if err != nil {
		return "", err
	}
	if r.phase() != Drained || !state.Sealed || !state.Covers(r.tables) {
		r.c.Logger.Warn("a cutover was interrupted before its end: un-fencing and following again")
		return Following, nil // which takes down what stands
	}
	r.c.Logger.Warn("a cutover was interrupted after the fence was sealed: finishing it")
	s.fence = cutover.Fence{Name: r.c.Name, Run: r.store.Run()}
	s.since = time.Now()
	if r.rec.FencedAt != nil {
		s.since = *r.rec.FencedAt
	}
	s.result = &CutoverResult{FencedAt: r.rec.FencedAt, DrainedAt: r.rec.DrainedAt, Tables: state.Triggers}
	s.recipe.Forward, s.recipe.Steps = true, s.rest()
	if err := s.run(ctx, ctx); err != nil {
		return "", err
	}
	return Finished, nil
}

// rest are the steps of a run that finds a sealed fence: there is only the way forward. The run that sealed it
// may have had all before the opening; but where it did not learn of its seal it may have died while it took everything back.
func (s *switching) rest() []cutover.Step {
	log := s.r.c.Logger
	return append([]cutover.Step{
		{Name: stepAdopt, Do: func(ctx context.Context) error { return s.fence.Adopt(ctx, s.conn) }},
		{Name: stepSequences, Optional: true, Do: func(ctx context.Context) error {
			_, err := s.r.setSequences(ctx, s.conn, nil)
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
				log.Error("both sides cannot be compared as of the cutover", "error", err)
				s.result.Comparison = &Comparison{Error: err.Error()}
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
		{Name: stepOpen, Do: s.conclude},
	}, s.afterOpen()...)
}
