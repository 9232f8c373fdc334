package wayback

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// It is known since when the way back is as it is, however often what keeps it from following is tried again; what is lost stays lost, for
// the first reason. What is said of any flow is said in the words of this one.
func TestAfter(t *testing.T) {
	start := time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC)
	label := &fail.Error{Problem: "apply INSERT into t: the target's type lacks a label", Advice: "add it on the target, then start again: it resumes where it stopped"}
	gone := &slot.Error{Slot: "s", Reason: slot.Missing, Detail: "none"}
	var now *state.WayBack
	for minute, c := range []struct {
		err  error
		want string
	}{
		{nil, "following 0 |  | "},
		{nil, "following 0 |  | "},
		{label, "interrupted 2 | apply INSERT into t: the old server's type lacks a label | add it on the old server; it is tried again every minute"},
		{&applier.ConflictError{}, "interrupted 2 | " + (&applier.ConflictError{}).Error() + " | " + said((&applier.ConflictError{}).Hint()) + "; rows of the old server are changed past its fence after: " +
			"select set_config('walferry.pass', armed ->> 'pass', false) from walferry.migration where name = 'm_back'"},
		{errors.New("the target is away"), "interrupted 2 | the old server is away | "},
		{nil, "following 5 |  | "},
		{label, "interrupted 6 | apply INSERT into t: the old server's type lacks a label | add it on the old server; it is tried again every minute"},
		{&BudgetError{3 << 20, 2 << 20}, "lost 7 | the way back held back 3 MB of WAL on the new server, more than the 2 MB of --max-retained-wal-target: it was given up | "},
		{gone, "lost 7 | the way back held back 3 MB of WAL on the new server, more than the 2 MB of --max-retained-wal-target: it was given up | "},
		{nil, "lost 7 | the way back held back 3 MB of WAL on the new server, more than the 2 MB of --max-retained-wal-target: it was given up | "},
	} {
		now = after("m", now, c.err, start.Add(time.Duration(minute)*time.Minute))
		if got := fmt.Sprintf("%s %d | %s | %s", now.State, now.Since.Minute(), now.Reason, now.Do); got != c.want {
			t.Errorf("after %v in minute %d: %s, want %s", c.err, minute, got, c.want)
		}
	}
	if lost := after("m", nil, fmt.Errorf("read the way back: %w", gone), start); lost.State != state.BackLost {
		t.Errorf("without its slot it is %s", lost.State)
	}
}
