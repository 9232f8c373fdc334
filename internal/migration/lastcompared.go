package migration

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/catalog"
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
	last.At, last.Position, last.Compared = time.Now().UTC().Truncate(time.Second), v.Position, v.Compared
	for _, t := range v.Tables {
		name := catalog.Name{Schema: t.Schema, Name: t.Name}.String()
		known := slices.Index(last.Differ, name)
		switch {
		case t.Error != "": // nothing is known of it
		case t.Equal && known >= 0:
			last.Differ = slices.Delete(last.Differ, known, known+1)
		case !t.Equal && known < 0:
			last.Differ = append(last.Differ, name)
		}
	}
	return r.store.Put(ctx, state.Comparison, last)
}

// comparisonGate: the last comparison has found no differences.
func (r *runner) comparisonGate(ctx context.Context, o CutoverOptions) error {
	last, err := status.Compared(ctx, r.store)
	if err != nil || last == nil || len(last.Differ) == 0 || o.AllowDifferences {
		return err
	}
	return &GateError{Problem: fmt.Sprintf("the last comparison, at %s, has found that tables differ: %s", last.Position, list(last.Differ)), Advice: "repair the rows (`walferry verify` names them), verify again, and ask again; or go on over them with --allow-differences"}
}
