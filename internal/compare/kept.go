package compare

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/verify"
)

// Keep records what a comparison has found while the migration follows, for status and for Gate.
func Keep(ctx context.Context, store *state.Store, v *verify.Verified) error {
	last, err := status.Compared(ctx, store)
	if err != nil {
		return err
	}
	if last == nil {
		last = &status.LastComparison{}
	}
	last.Add(v, time.Now())
	return store.Values().Put(ctx, state.Comparison, last)
}

// Gate returns an error if the last comparison has found differences, unless they are allowed.
func Gate(ctx context.Context, store *state.Store, allow bool) error {
	last, err := status.Compared(ctx, store)
	if err != nil || last == nil || allow {
		return err
	}
	return last.Gate()
}

// Proof returns the comparison that was made as of the cutover; nil: there is none.
func Proof(ctx context.Context, store *state.Store) (*verify.Verified, error) {
	v := &verify.Verified{}
	if found, err := store.Values().Get(ctx, state.Proof, v); err != nil || !found {
		return nil, err
	}
	v.Conclude() // an older version said "equal" of what was not compared
	return v, nil
}
