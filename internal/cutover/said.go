package cutover

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
)

// line is what people are told of a step that has come to an outcome; empty: nothing.
func (s *Switch) line(t state.Taken) string {
	if t.Outcome != state.Done {
		return ""
	}
	r := s.result
	switch t.Name {
	case GateLag:
		return fmt.Sprintf("lag %d ms", r.LagMS)
	case stepFence:
		return fmt.Sprintf("fenced %d tables; the last position is %s", r.Tables, s.position)
	case stepDrain:
		return fmt.Sprintf("drained in %d ms", r.DrainedAt.Sub(s.since).Milliseconds())
	case stepSequences:
		if !s.recipe.Forward {
			return fmt.Sprintf("set %d sequences", r.Sequences)
		}
	case stepOpen:
		return fmt.Sprintf("finished: writes were refused for %d ms; the %s is open", r.PauseMS, s.Sides.To())
	}
	return ""
}

// explainStop is the error of a switch that was stopped before its seal.
func (s *Switch) explainStop(stop *StopError) error {
	err := stop.Err
	if !stop.Touched {
		if !fail.Is(err, fail.Gate) && fail.Is(stop.Ended, fail.Gate) {
			return gateOf(stop.Ended, err) // its time was over at a gate: nothing has failed
		}
		for _, kind := range []fail.Kind{fail.Gate, fail.Difference, fail.Usage} {
			if fail.Is(err, kind) {
				return err
			}
		}
		return &fail.Error{Kind: fail.Gate, Problem: err.Error() + "; everything is as before", Advice: cmp.Or(fail.Hint(err), "fix it and ask again"), Err: err}
	}
	if errors.Is(stop.Back, state.ErrOvertaken) || err == nil {
		return stop.Back
	}
	if stop.Back != nil {
		// Whatever has stopped it, not everything is as before: this is not a gate.
		advice := "migrate keeps trying to undo it: `walferry status` shows where it stands"
		if closed := (*StillFencedError)(nil); errors.As(stop.Back, &closed) {
			advice = "writes may be refused: on the " + s.Sides.From() + ", run the SQL that was printed; migrate keeps trying, too"
		}
		return &fail.Error{Kind: fail.Run, Problem: fmt.Sprintf("%v; NOT everything could be undone: %v", err, stop.Back), Advice: advice}
	}
	gate := gateOf(stop.Ended, err)
	return &fail.Error{Kind: fail.Gate, Problem: gate.Problem + "; un-fenced, everything is as before", Advice: gate.Advice}
}

// gateOf is the gate that has stopped a switch: that of err, or of what had ended its context; nil:
// there was none.
func gateOf(ended, err error) *fail.Error {
	deadline := fail.Find(ended, fail.Gate)
	if own := fail.Find(err, fail.Gate); own != nil && own != deadline {
		return own
	}
	if deadline == nil {
		return &fail.Error{Kind: fail.Gate, Problem: err.Error(), Advice: cmp.Or(fail.Hint(err), "fix it and ask again")}
	}
	// Most of what was being done then ends with the same words.
	gate := &fail.Error{Kind: fail.Gate, Problem: deadline.Problem, Advice: deadline.Advice}
	if doing := strings.TrimSuffix(strings.TrimSuffix(err.Error(), deadline.Problem), ": "); doing != "" {
		gate.Problem += ": " + doing
	}
	if waited := (*WaitError)(nil); errors.As(err, &waited) {
		gate.Advice = waited.Hint() + "; or " + deadline.Advice
	}
	return gate
}
