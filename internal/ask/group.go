package ask

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
)

// grouped reports whether groups of tables were handed over, so that some of them can be switched back.
func (a *Asker) grouped(ctx context.Context) (bool, error) {
	return a.Store.Values().Get(ctx, state.Groups, new(json.RawMessage))
}

// Entire refuses to hand a group over where nothing is left to hand over.
func Entire() error {
	return &fail.Error{Kind: fail.Gate, Problem: "everything is the new server's already", Advice: "`walferry fallback` switches back, with --tables a part"}
}

// group asks for the switch of a group of tables, in either direction, and waits for it.
func (a *Asker) group(ctx context.Context, kind string, args state.Args) (result *cutover.Result, err error) {
	r, err := a.awaitFollowing(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, state.ErrNotBegun
	case err != nil:
		return nil, err
	case r == nil:
		return nil, a.Store.Missing(ctx)
	case r.Phase == state.Aborted:
		return nil, Aborted(r.Name)
	case r.Phase == state.Switched && kind == "cutover":
		return nil, Entire()
	case r.Phase != state.Following && r.Phase != state.Switched:
		return nil, &fail.Error{Kind: fail.Gate, Problem: "the migration is in phase " + string(r.Phase) + ": groups of tables are handed over while the old server is the database for the rest", Advice: "without --tables everything is switched"}
	}
	if err := a.CheckSource(ctx, r); err != nil && ctx.Err() != nil {
		return nil, state.ErrNotBegun
	} else if err != nil {
		return nil, err
	}
	answer, err := a.Store.Mailbox().Ask(ctx, kind, args, a.Step)
	if errors.Is(err, state.ErrDone) { // which is known of everything, not of a group
		err = state.ErrUnanswered
	}
	if len(answer.Cutover) > 0 {
		err = cmp.Or(err, json.Unmarshal(answer.Cutover, &result))
	}
	if err == nil && result != nil {
		err = result.Verdict()
	}
	return result, err
}
