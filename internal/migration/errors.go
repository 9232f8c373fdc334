package migration

import (
	"context"

	"github.com/walferry/walferry/internal/fail"
)

// sourceGone is the error of a source that cannot be reached after the cutover.
func sourceGone(err error) error {
	return &fail.Error{
		Kind:   fail.Run,
		Advice: "if the old server is gone for good, `drop schema walferry cascade` on the target is what is left for cleanup to do, unless another migration has its state there",
		Err:    err,
	}
}

// oldAway is the error of an old server that cannot be reached by migrate, which needs it.
func (e *ends) oldAway(ctx context.Context, err error) error {
	if r, _ := e.store.Load(ctx); r != nil && r.Phase == Switched {
		return &fail.Error{
			Kind: fail.Run, Err: err,
			Advice: "the new server is the database, and does not need the old one: start again when that is back, or, if it is gone for good, give the way back up: `walferry finish`",
		}
	}
	return err
}
