package migration

import (
	"context"
	"errors"
	"time"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/guard"
	"github.com/walferry/walferry/internal/hook"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// rescuePatience is how long Rescue tries. Clients have given up long before.
const rescuePatience = 15 * time.Minute

// clientFindings are what would keep clients from being switched, in the direction that comes next.
func clientFindings(ctx context.Context, c Config, rec *state.Record) []check.Finding {
	e, err := openTarget(ctx, c)
	if err != nil {
		return nil // the check has said so
	}
	defer e.close(ctx)
	if err := e.openSource(ctx); err != nil {
		return nil
	}
	steered := e.clients
	if rec != nil && rec.Phase == Switched {
		steered = e.turned().clients
		defer steered.Close()
	}
	return steered.Findings(ctx)
}

// Rescue lets go of clients whom a run of Migrate has held that has died. It does what the next run
// would do of the switch, and nothing more: what is not sealed is undone, what is sealed is finished. If
// another run has begun meanwhile that does it.
func Rescue(ctx context.Context, c Config) error {
	c, err := c.Fill()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rescuePatience)
	defer cancel()
	return wait.Again(ctx, wait.Pauses{First: 100 * time.Millisecond, Longest: 2 * time.Second}, func() error { return rescue(ctx, c) },
		func(error) bool { return true }, func(err error, _ time.Duration) {
			c.Logger.Warn("clients are still held, trying again", "reason", err)
		})
}

// rescue is one attempt.
func rescue(ctx context.Context, c Config) error {
	e, err := openEnds(ctx, c)
	if err != nil || e.rec == nil {
		return err
	}
	defer e.close(ctx)
	r := &runner{ends: e, back: e.turned()}
	defer r.back.clients.Close()
	forth, err := e.clients.Held(ctx)
	back, err2 := r.back.clients.Held(ctx)
	if err := errors.Join(err, err2); err != nil || !forth && !back {
		return err
	}
	if err := e.take(ctx, state.LockPatience); err != nil {
		return err
	}
	r.back.lock = e.lock
	if err := r.recall(ctx); err != nil || r.rec == nil {
		return err
	}
	r.c.Settle(r.rec.Options)
	r.settled()
	if err := e.store.Take(ctx); err != nil {
		return err
	}
	c.Logger.Warn("the process that held clients has died: letting them continue", "phase", r.live.Phase())
	if r.live.Phase() != Switched {
		return r.settleSwitch(ctx, r.ends, r.back)
	}
	if err := errors.Join(e.clients.Settle(ctx, true), r.back.recall(ctx)); err != nil || r.back.rec == nil {
		return err
	}
	if err := r.back.store.Take(ctx); err != nil {
		return err
	}
	return r.settleSwitch(ctx, r.back, r.ends)
}

// settleSwitch finishes an interrupted switch in the direction of e, or takes its fence down, and lets
// go of the clients.
func (r *runner) settleSwitch(ctx context.Context, e, other *ends) error {
	if err := e.tables.Select(ctx, true); err != nil {
		return err
	}
	if phase := e.live.Phase(); phase == Fenced || phase == Drained {
		next, err := r.afterInterruptedCutover(ctx, e, other)
		if err == nil {
			err = e.advance(ctx, next)
		}
		if err != nil {
			return err
		}
	}
	switched := e.live.Phase() == Finished || e.live.Phase() == Switched
	if !switched {
		if err := e.fence.TakeDown(ctx, "", func() { e.clients.Settle(ctx, false) }, func(text string) { e.c.Logger.Warn(text) }); err != nil {
			return err
		}
	}
	return errors.Join(e.clients.Settle(ctx, switched), other.clients.Settle(ctx, !switched))
}

// tellEnd tells hooks how a run has ended.
func (r *runner) tellEnd(ctx context.Context, err error) {
	switch phase := r.live.Phase(); {
	case errors.Is(err, guard.ErrRetained):
		r.clients.Tell(hook.Aborted, err.Error())
	case phase == Aborted:
		r.clients.Tell(hook.Aborted, "it was asked for")
	case phase == Finished:
		r.clients.Tell(hook.Finished, "")
	case err != nil && !errors.Is(err, errCaughtUp) && ctx.Err() == nil:
		r.clients.Tell(hook.Alert, "migrate has ended: "+err.Error())
	}
}
