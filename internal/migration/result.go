package migration

import (
	"context"

	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// outcome is what a cutover that is done has measured, for whoever asks once it is. While the
// migrate that has cut over still compares, it is waited for.
func outcome(ctx context.Context, target *session.Link, s *state.Store, onStep func(string)) (*CutoverResult, error) {
	result := &CutoverResult{}
	if err := s.Mailbox().Outcome(ctx, onStep, result); err != nil {
		return nil, err
	}
	return result, addUnvalidated(ctx, target, s, result)
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
