package migration

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// keepComparison records what a verify has found, for status and as a gate of the cutover.
func (r *runner) keepComparison(ctx context.Context, v *Verified) error {
	last, err := status.Compared(ctx, r.store)
	if err != nil {
		return err
	}
	if last == nil {
		last = &LastComparison{}
	}
	last.Add(v, time.Now())
	return r.store.Values().Put(ctx, state.Comparison, last)
}

// comparisonGate: the last comparison has found no differences.
func (r *runner) comparisonGate(ctx context.Context, o CutoverOptions) error {
	last, err := status.Compared(ctx, r.store)
	if err != nil || last == nil || o.AllowDifferences {
		return err
	}
	return last.Gate()
}
