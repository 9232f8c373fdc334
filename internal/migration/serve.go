package migration

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// holdLimit is how long an applier stays held when verify has died: one that
// lives asks again in time.
const holdLimit = 2 * time.Minute

// heldFor is who holds the applier. Nobody else may move it or let it go on: what he
// compares would not be of one position any more.
type heldFor struct {
	token string // of the one verify that holds it
	owner string // for people
	until time.Time
}

// errEnding ends what is being carried out when the run ends: a cutover that is not sealed
// is taken back.
var errEnding = &GateError{Problem: "the running migrate is ending", Advice: "start `walferry migrate` again if it shall go on, and ask again"}

// errLeaveIt is for a request that the end of the run answers: the cutover by itself of --cutover
// auto was done first, and what is known of that is told then.
var errLeaveIt = errors.New("the cutover was done by itself")

// serve carries out what other processes ask, one request after the other.
func (f *following) serve(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil; waitTick(ctx, tick) {
		f.openLate(ctx)
		held := f.holder()
		if held != nil && time.Now().After(held.until) {
			f.r.c.Logger.Warn(held.owner + " has not let go of the applier in time: following again")
			f.release(held.token)
			held = nil
		}
		later := ""
		if held != nil {
			later = "cutover" // which needs the applier; the hold ends soon
		}
		q, err := f.r.store.Next(ctx, later)
		if err != nil || q == nil {
			if err != nil && ctx.Err() == nil {
				f.r.c.Logger.Debug("read requests", "error", err)
			}
			continue
		}
		f.r.c.Logger.Info("asked for "+q.Kind, "request", q.ID)
		a, end, err := f.carryOut(ctx, q)
		if errors.Is(err, errLeaveIt) {
			return
		}
		if err != nil {
			var gate *GateError
			a.Error, a.Gate = err.Error(), errors.As(err, &gate)
			var hint interface{ Hint() string }
			if errors.As(err, &hint) {
				a.Hint = hint.Hint()
			}
			f.r.c.Logger.Warn(q.Kind+" was not done", "reason", err)
		}
		done := err == nil
		err = within(ctx, 10*time.Second, func(ctx context.Context) error { return f.r.store.Answer(ctx, q.ID, done, a) })
		if err != nil {
			f.r.c.Logger.Error("answer "+q.Kind, "error", err)
		}
		if end != nil {
			stop(end)
			return
		}
	}
}

// carryOut does one request. With end the run is over.
func (f *following) carryOut(ctx context.Context, q *state.Request) (a state.Answer, end error, err error) {
	switch q.Kind {
	case "cutover":
		step := func(text string) {
			f.r.c.Logger.Info("cutover: " + text)
			if err := f.r.store.AddStep(context.WithoutCancel(ctx), q.ID, text); err != nil {
				f.r.c.Logger.Debug("report step", "error", err)
			}
		}
		options := CutoverOptions{
			Timeout: seconds(q.Args.Timeout), MaxLag: seconds(q.Args.MaxLag), DryRun: q.Args.DryRun, NoFence: q.Args.NoFence, Without: q.Args.Without,
			AllowDifferences: q.Args.AllowDifferences,
		}
		wanted, stop := f.r.store.WhileWanted(ctx, q.ID)
		defer stop()
		result, err := f.cutover(ctx, wanted, options.fill(), step)
		if err != nil && !result.Sealed && f.r.phase() == Finished {
			return a, nil, errLeaveIt
		}
		if err != nil && !result.Sealed && errors.Is(context.Cause(wanted), state.ErrWithdrawn) {
			var gate *GateError
			if errors.As(err, &gate) || !result.Touched { // everything is as before
				err = &GateError{Problem: state.ErrWithdrawn.Problem + ": everything is as before", Advice: state.ErrWithdrawn.Advice}
			}
		}
		if result.Sealed {
			// There is no way back: the run ends here, and the next one goes forward.
			if end = err; end == nil {
				end = errFinished
			}
		}
		text, unwritten := json.Marshal(result)
		a.Cutover = text
		return a, end, cmp.Or(err, unwritten)
	case "abort":
		if err := f.r.store.SetPhase(ctx, Aborted); err != nil {
			return a, nil, err
		}
		f.r.mu.Lock()
		f.r.rec.Phase = Aborted
		f.r.mu.Unlock()
		return a, errAborted, nil
	case "hold", "advance":
		a, err = f.hold(ctx, q)
		return a, nil, err
	case "release":
		f.release(q.Args.Token)
		return a, nil, nil
	}
	return a, nil, &GateError{Problem: fmt.Sprintf("the running migrate does not know the request %q", q.Kind), Advice: "it may be of an older version: use the same one everywhere"}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// holder is who holds the applier, or nil.
func (f *following) holder() *heldFor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// mayHold reports why the applier cannot be held, or moved on while it is, for who asks.
func (f *following) mayHold(q *state.Request) (a state.Answer, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.cutting:
		return a, &GateError{Problem: "a cutover is under way", Advice: "compare after it"}
	case q.Kind == "advance" && (f.held == nil || f.held.token != q.Args.Token):
		return a, &GateError{Problem: "the applier is not held for this verify any more", Advice: "verify again"}
	case f.held != nil && f.held.token != q.Args.Token:
		a.Holder = f.held.owner
		return a, &GateError{Problem: f.held.owner + " holds the applier", Advice: "verify again when it has let go"}
	}
	return a, nil
}

// hold makes the applier stand still: where it is, or to advance once it has applied
// exactly what committed before the position that is asked for.
func (f *following) hold(ctx context.Context, q *state.Request) (a state.Answer, err error) {
	if a, err = f.mayHold(q); err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	if f.holder() == nil {
		select {
		case f.holding <- struct{}{}: // nobody else stops the applier now
		case <-ctx.Done():
			return a, fmt.Errorf("hold the applier: another one holds it: %w", context.Cause(ctx))
		}
	}
	var at decoder.LSN
	if q.Kind == "advance" {
		at = parseLSN(q.Args.LSN)
	}
	if _, err := f.pause(ctx, at); err != nil {
		f.letGo()
		return a, fmt.Errorf("hold the applier: %w", err)
	}
	f.mu.Lock()
	f.held = &heldFor{q.Args.Token, q.Args.Asker, time.Now().Add(holdLimit)}
	f.mu.Unlock()
	if a.Progress, err = state.ReadProgress(ctx, f.r.target.Row, f.r.c.Name); err != nil {
		f.letGo()
	}
	return a, err
}

// release lets the applier go on, if it is held for that token.
func (f *following) release(token string) {
	if held := f.holder(); held != nil && held.token == token {
		f.letGo()
	}
}

// letGo is for who has filled f.holding.
func (f *following) letGo() {
	f.applier.Resume()
	f.mu.Lock()
	f.held = nil
	f.mu.Unlock()
	<-f.holding
}

// beginCutting keeps everybody from holding the applier, and from another cutover, until the
// returned function is called, and waits for one who does either.
func (f *following) beginCutting(ctx context.Context) (end func(), err error) {
	err = wait.Until(ctx, wait.Every(100*time.Millisecond), func() (free bool, _ error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		free = f.held == nil && !f.cutting
		f.cutting = f.cutting || free
		return free, nil
	})
	if err != nil {
		return nil, err
	}
	return func() {
		f.mu.Lock()
		f.cutting = false
		f.mu.Unlock()
	}, nil
}
