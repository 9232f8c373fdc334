package cutover

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/walferry/walferry/internal/fail"
)

// The end of a cutover's time is reported once, whatever was being done then.
func TestGateOf(t *testing.T) {
	deadline := &fail.Error{Kind: fail.Gate, Problem: "the cutover was not done within 25s", Advice: "give a longer --timeout"}
	for _, c := range []struct {
		ended, err            error
		want, wantedByWhoAsks string
	}{
		{deadline, deadline, "the cutover was not done within 25s", "give a longer --timeout"},
		{deadline, fmt.Errorf("drain: %w", deadline), "the cutover was not done within 25s: drain", "give a longer --timeout"},
		{deadline, errors.New("drain: no answer"), "the cutover was not done within 25s: drain: no answer", "give a longer --timeout"},
		{deadline, &fail.Error{Kind: fail.Gate, Problem: "a writer goes on", Advice: "end him"}, "a writer goes on", "end him"},
		{nil, fmt.Errorf("finish: %w", &fail.Error{Kind: fail.Gate, Problem: "a table is gone", Advice: "look for it"}), "a table is gone", "look for it"},
		{nil, errors.New("no answer"), "no answer", "fix it and ask again"},
	} {
		if got := gateOf(c.ended, c.err); got.Problem != c.want || got.Advice != c.wantedByWhoAsks {
			t.Errorf("%v: got %q, %q; want %q, %q", c.err, got.Problem, got.Advice, c.want, c.wantedByWhoAsks)
		}
	}
}

// A cutover that ends at a gate has changed nothing, be it that its time was over or that something has failed: everything is as
// before, and that is a gate, too.
func TestExplainStop_Untouched(t *testing.T) {
	deadline := &fail.Error{Kind: fail.Gate, Problem: "the cutover was not done within 3s", Advice: "give a longer --timeout"}
	err := new(Switch).explainStop(&StopError{Step: "opening", Ended: deadline, Err: fmt.Errorf("list triggers: %w", context.DeadlineExceeded)})
	gate := fail.Find(err, fail.Gate)
	if want := "the cutover was not done within 3s: list triggers: context deadline exceeded"; gate == nil || gate.Problem != want {
		t.Errorf("got %v, want the gate %q", err, want)
	}
	failed := errors.New("no answer")
	err = new(Switch).explainStop(&StopError{Step: "opening", Err: failed})
	if gate := fail.Find(err, fail.Gate); gate == nil || gate.Problem != "no answer; everything is as before" || !errors.Is(err, failed) {
		t.Errorf("within its time: got %v, want the gate that says what has failed", err)
	}
	different := &fail.Error{Kind: fail.Difference, Problem: "rows differ"}
	if err := new(Switch).explainStop(&StopError{Step: "compared", Err: different}); err != different {
		t.Errorf("got %v, want %v", err, different)
	}
}

// If not everything could be undone nothing is as before, whatever has stopped the switch.
func TestExplainStop_NotUndone(t *testing.T) {
	stopped := &fail.Error{Kind: fail.Gate, Problem: "the cutover was taken back", Advice: "ask again"}
	err := new(Switch).explainStop(&StopError{Step: "drain", Touched: true, Err: stopped, Back: &StillFencedError{errors.New("no connection")}})
	failed := fail.Find(err, fail.Run)
	if fail.Is(err, fail.Gate) || failed == nil || failed.Problem != "the cutover was taken back; NOT everything could be undone: no connection" {
		t.Errorf("got %v (%T), want a failure that says both", err, err)
	}
}
