package cutover

import (
	"context"

	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// AwaitResult reads what a switch that is done has measured, for whoever asks once it is. While the
// process that has switched still compares, it is waited for. keys are those that may still be to be validated.
func AwaitResult(ctx context.Context, store *state.Store, keys *schema.Pending, onStep func(string)) (r *Result, err error) {
	r = &Result{}
	if err := store.Mailbox().Outcome(ctx, onStep, r); err != nil {
		return nil, err
	}
	r.Unvalidated, err = keys.Left(ctx)
	return r, err
}

// EnableLeft tries again to enable what the opening of a switch that is done has left, and returns what is
// recorded of the switch: nil in a record of an older version.
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
