package cutover

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// AwaitResult returns what a finished switch has measured, for whoever asks afterwards. It waits
// while the process that has switched still compares. keys may still have to be validated.
func AwaitResult(ctx context.Context, store *state.Store, keys *schema.Pending, onStep func(string)) (r *Result, err error) {
	for {
		r = &Result{}
		if err := store.Mailbox().Outcome(ctx, onStep, r); err != nil {
			return nil, err
		}
		if r.Comparison == nil || r.Comparison.Error != unfinished {
			break
		}
		if compares, err := switching(ctx, store); err != nil || !compares {
			break
		}
		if err := wait.Sleep(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
	r.Unvalidated, err = keys.Left(ctx)
	return r, err
}

// switching reports whether a run is still within its switch, which opens To before it compares.
func switching(ctx context.Context, store *state.Store) (yes bool, err error) {
	now, err := store.Load(ctx)
	if err != nil || now == nil || !now.Alive {
		return false, err
	}
	open, err := store.Mailbox().Open(ctx)
	for _, o := range open {
		yes = yes || o.Kind == "cutover" && o.Taken
	}
	return yes || now.Live.Under != nil, err
}

// EnableLeft tries again to enable what the opening of a finished switch has left disabled, and
// returns what is recorded of the switch; nil: it was recorded by an older version.
func EnableLeft(ctx context.Context, store *state.Store, opening Opening) (r *Result, err error) {
	if _, err := store.Values().Get(ctx, state.Result, &r); err != nil || r == nil || len(r.Disabled) == 0 {
		return r, err
	}
	disabled, err := opening.EnableRest(ctx, 0)
	if err != nil && len(disabled) == 0 {
		return nil, err
	}
	r.Disabled = disabled
	return r, store.Values().Put(ctx, state.Result, r)
}
