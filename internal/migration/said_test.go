package migration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/cutover"
)

// The end of a cutover's time is said once, whatever was being done then.
func TestGateOf(t *testing.T) {
	deadline := &GateError{Problem: "the cutover was not done within 25s", Advice: "give a longer --timeout"}
	over, cancel := context.WithTimeoutCause(t.Context(), -time.Second, deadline)
	defer cancel()
	for _, c := range []struct {
		ctx                   context.Context
		err                   error
		want, wantedByWhoAsks string
	}{
		{over, deadline, "the cutover was not done within 25s", "give a longer --timeout"},
		{over, fmt.Errorf("drain: %w", deadline), "the cutover was not done within 25s: drain", "give a longer --timeout"},
		{over, errors.New("drain: no answer"), "the cutover was not done within 25s: drain: no answer", "give a longer --timeout"},
		{over, &GateError{Problem: "a writer goes on", Advice: "end him"}, "a writer goes on", "end him"},
		{t.Context(), fmt.Errorf("finish: %w", &GateError{Problem: "a table is gone", Advice: "look for it"}), "a table is gone", "look for it"},
		{t.Context(), errors.New("no answer"), "no answer", "mend it and ask again"},
	} {
		if got := gateOf(c.ctx, c.err); got.Problem != c.want || got.Advice != c.wantedByWhoAsks {
			t.Errorf("%v: got %q, %q; want %q, %q", c.err, got.Problem, got.Advice, c.want, c.wantedByWhoAsks)
		}
	}
}

// A cutover whose time was over at a gate has changed nothing, and nothing has failed: that is a gate, too.
func TestExplainStop_Untouched(t *testing.T) {
	deadline := &GateError{Problem: "the cutover was not done within 3s", Advice: "give a longer --timeout"}
	over, cancel := context.WithTimeoutCause(t.Context(), -time.Second, deadline)
	defer cancel()
	var gate *GateError
	err := explainStop(over, &cutover.StopError{Step: "opening", Err: fmt.Errorf("list triggers: %w", context.DeadlineExceeded)})
	if want := "the cutover was not done within 3s: list triggers: context deadline exceeded"; !errors.As(err, &gate) || gate.Problem != want {
		t.Errorf("got %v, want the gate %q", err, want)
	}
	failed := errors.New("no answer")
	if err := explainStop(t.Context(), &cutover.StopError{Step: "opening", Err: failed}); err != failed {
		t.Errorf("within its time: got %v, want %v", err, failed)
	}
}
