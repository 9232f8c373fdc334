package cutover

import (
	"context"

	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// AwaitResult returns what a finished switch has measured, for whoever asks afterwards. It waits
// while the process that has switched still compares. keys may still have to be validated.
func AwaitResult(ctx context.Context, store *state.Store, keys *schema.Pending, onStep func(string)) (r *Result, err error) {
	r = &Result{}
	if err := store.Mailbox().Outcome(ctx, onStep, r); err != nil {
		return nil, err
	}
	r.Unvalidated, err = keys.Left(ctx)
	return r, err
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
