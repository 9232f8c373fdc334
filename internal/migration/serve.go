package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walferry/walferry/decoder"
)

// holdLimit is how long an applier stays held when verify has died: one that
// lives asks again in time.
const holdLimit = 2 * time.Minute

// serve carries out what other processes ask, one request after the other.
func (f *following) serve(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil; waitTick(ctx, tick) {
		f.mu.Lock()
		expired := !f.heldUntil.IsZero() && time.Now().After(f.heldUntil)
		f.mu.Unlock()
		if expired {
			f.r.c.Logger.Warn("verify has not let go of the applier in time: following again")
			f.release()
		}
		q, err := f.r.store.nextRequest(ctx)
		if err != nil || q == nil {
			if err != nil && ctx.Err() == nil {
				f.r.c.Logger.Debug("read requests", "error", err)
			}
			continue
		}
		f.r.c.Logger.Info("asked for "+q.Kind, "request", q.ID)
		a, end, err := f.carryOut(ctx, q)
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
		err = within(ctx, 10*time.Second, func(ctx context.Context) error { return f.r.store.answer(ctx, q.ID, done, a) })
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
func (f *following) carryOut(ctx context.Context, q *request) (a answer, end error, err error) {
	switch q.Kind {
	case "cutover":
		step := func(text string) {
			f.r.c.Logger.Info("cutover: " + text)
			if err := f.r.store.addStep(context.WithoutCancel(ctx), q.ID, text); err != nil {
				f.r.c.Logger.Debug("report step", "error", err)
			}
		}
		options := CutoverOptions{
			Timeout: seconds(q.Args.Timeout), MaxLag: seconds(q.Args.MaxLag), DryRun: q.Args.DryRun, NoFence: q.Args.NoFence, Without: q.Args.Without,
		}
		a.Cutover, err = f.cutover(ctx, options.fill(), step)
		if a.Cutover.sealed {
			// There is no way back: the run ends here, and the next one goes forward.
			if end = err; end == nil {
				end = errFinished
			}
			if a.Cutover.FinishedAt != nil {
				err = nil // the cutover is done, whatever came after it
			}
		}
		return a, end, err
	case "abort":
		if err := f.r.store.setPhase(ctx, Aborted); err != nil {
			return a, nil, err
		}
		f.r.mu.Lock()
		f.r.rec.Phase = Aborted
		f.r.mu.Unlock()
		return a, errAborted, nil
	case "hold":
		lsn, err := f.hold(ctx, 0)
		a.LSN = lsn
		return a, nil, err
	case "advance":
		lsn, err := f.hold(ctx, parseLSN(q.Args.LSN))
		a.LSN = lsn
		return a, nil, err
	case "release":
		f.release()
		return a, nil, nil
	}
	return a, nil, &GateError{fmt.Sprintf("the running migrate does not know the request %q", q.Kind), "it may be of an older version: use the same one everywhere"}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// hold makes the applier stand still: where it is with 0, or once it has applied
// exactly what committed before lsn.
func (f *following) hold(ctx context.Context, lsn decoder.LSN) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	f.mu.Lock()
	holds := !f.heldUntil.IsZero()
	f.mu.Unlock()
	if !holds {
		select {
		case f.holding <- struct{}{}:
		case <-ctx.Done():
			return "", fmt.Errorf("hold the applier: another one holds it: %w", context.Cause(ctx))
		}
	}
	if lsn != 0 {
		// Only something at or past lsn shows that nothing before it is still to come.
		if _, err := f.writeBeat(ctx, "barrier"); err != nil {
			f.letGo()
			return "", err
		}
	}
	applied, err := f.applier.Pause(ctx, lsn)
	if err != nil {
		f.letGo()
		return "", fmt.Errorf("hold the applier: %w", err)
	}
	f.mu.Lock()
	f.heldUntil = time.Now().Add(holdLimit)
	f.mu.Unlock()
	return applied.String(), nil
}

// release lets go of an applier that is held for verify.
func (f *following) release() {
	f.mu.Lock()
	holds := !f.heldUntil.IsZero()
	f.mu.Unlock()
	if holds {
		f.letGo()
	}
}

// letGo is for who has filled f.holding.
func (f *following) letGo() {
	f.applier.Resume()
	f.mu.Lock()
	f.heldUntil = time.Time{}
	f.mu.Unlock()
	<-f.holding
}
