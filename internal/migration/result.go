package migration

import (
	"context"

	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// outcome is what a cutover that is done has measured, for whoever asks once it is. While the
// migrate that has cut over still compares, it is waited for.
func outcome(ctx context.Context, target *session.Link, s *state.Store, onStep func(string)) (result *CutoverResult, err error) {
	result = &CutoverResult{}
	if err := s.Mailbox().Outcome(ctx, onStep, result); err != nil {
		return nil, err
	}
	result.Unvalidated, err = (&schema.Pending{Link: target, Store: s}).Left(ctx)
	return result, err
}

// cutoverResult reads what is recorded of a cutover that is done, or nil. A record of an older
// version has it not.
func cutoverResult(ctx context.Context, s *state.Store) (result *CutoverResult, err error) {
	_, err = s.Values().Get(ctx, state.Result, &result)
	return result, err
}

// keepResult records what a cutover that is done has measured, and the comparison when there is one.
func (r *runner) keepResult(ctx context.Context, result *CutoverResult, proof *Verified) error {
	if err := r.store.Values().Put(ctx, state.Result, result); err != nil || proof == nil {
		return err
	}
	return r.store.Values().Put(ctx, state.Proof, proof)
}

// enableLeft tries again to enable what the opening of a cutover that is done has left, and returns
// what is recorded of that.
func (r *runner) enableLeft(ctx context.Context) (*CutoverResult, error) {
	result, err := cutoverResult(ctx, r.store)
	if err != nil || result == nil || len(result.Disabled) == 0 {
		return result, err
	}
	disabled, err := r.closed().EnableRest(ctx, 0)
	if err != nil && len(disabled) == 0 {
		return nil, err
	}
	result.Disabled = disabled
	return result, r.keepResult(ctx, result, nil)
}
