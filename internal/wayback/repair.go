package wayback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// ErrGivenUp says that somebody has asked for a way back to be given up.
var ErrGivenUp = errors.New("the way back is to be given up")

// RepairInterval is how many heartbeats lie between two attempts to follow a way back that is interrupted: a minute.
const RepairInterval = 12

// Repair is what a run does between two attempts to follow a way back that does not follow.
type Repair struct {
	Guard     flow.Helper // that of the migration's lock
	Mailbox   state.Mailbox
	Budget    *Budget
	Heartbeat time.Duration
	Logger    *slog.Logger
}

// Await returns after RepairInterval, in which it answers who asks. ErrGivenUp: the way back is to be given up.
func (r *Repair) Await(ctx context.Context, back state.WayBack) error {
	guarded, stop := context.WithCancelCause(ctx)
	var guard sync.WaitGroup
	defer guard.Wait() // two would take the lock's connection from each other
	defer stop(nil)
	guard.Go(func() { r.Guard(guarded, stop) })
	began := time.Now()
	for n := 0; time.Since(began) < RepairInterval*r.Heartbeat; n++ {
		if err := wait.Sleep(guarded, 200*time.Millisecond); err != nil {
			return context.Cause(guarded)
		}
		if n%25 == 0 && back.State == state.BackInterrupted {
			if err := r.Budget.Keep(guarded); err != nil {
				return err
			}
		}
		q, err := r.Mailbox.Next(guarded, "")
		if err != nil || q == nil {
			continue
		}
		if q.Kind == "finish" {
			return ErrGivenUp // answered at the end of the run, when it is done
		}
		a := state.Answer{Gate: true, Error: fmt.Sprintf("the way back is %s since %s: %s", back.State, back.Since.UTC().Format(time.DateTime), back.Reason)}
		a.Hint = cmp.Or(back.Do, "repair that on the old server: it is tried again every minute") + "; or give the way back up: `walferry finish`"
		if back.State == state.BackLost {
			a.Hint = "`walferry finish` ends the migration: the new server has every row, the old one is as of before that"
		}
		if err := wait.Within(ctx, 10*time.Second, func(ctx context.Context) error { return r.Mailbox.Answer(ctx, q.ID, false, a) }); err != nil {
			r.Logger.Error("answer "+q.Kind, "error", err)
		}
	}
	return nil
}
