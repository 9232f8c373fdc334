package handover

import (
	"context"
	"fmt"
	"slices"

	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/state"
)

// Resume finishes a group's switch whose fence is sealed, and reports whether it has. Otherwise nothing was changed.
type Resume func(ctx context.Context, group Group, s *Side, r *state.Record) (done bool, err error)

// Settle decides for each group who owns it, after a crash, or when a switch of it has ended in whatever way: by its two
// records and its fences. What the old server owns becomes a part of the rest again. No switch of a group may be in progress.
func (g *Groups) Settle(ctx context.Context, resume Resume) error {
	if g.Mode() == nil {
		return nil
	}
	if err := g.Forth.Store.Mine(ctx); err != nil {
		return err
	}
	if err := g.settleSplit(ctx, nil); err != nil {
		return err
	}
	for _, group := range slices.Clone(g.Mode().Groups) {
		owner, err := g.owner(ctx, group, resume)
		if err == nil && owner == groups.Old {
			err = g.Dissolve(ctx, group)
		}
		if err != nil {
			return fmt.Errorf("group %d: %w", group.Number, err)
		}
	}
	return nil
}

// owner decides for a group; see decision 029.
func (g *Groups) owner(ctx context.Context, group Group, resume Resume) (groups.Owner, error) {
	forth, there, err := g.phase(ctx, group, g.Forth)
	if err != nil {
		return "", err
	}
	switch there {
	case state.Switched:
	case state.Fenced, state.Drained:
		if _, err := g.record(ctx, group, g.Forth); err != nil {
			return "", err
		}
		done, err := resume(ctx, group, g.Forth, forth)
		if err != nil || !done {
			return groups.Old, err
		}
	default:
		return groups.Old, nil
	}
	back, here, err := g.phase(ctx, group, g.Back)
	if err != nil {
		return "", err
	}
	switch here {
	case state.Switched:
		return groups.Old, nil
	case state.Fenced, state.Drained:
		store, err := g.record(ctx, group, g.Back)
		if err != nil {
			return "", err
		}
		done, err := resume(ctx, group, g.Back, back)
		if err != nil {
			return "", err
		}
		if done {
			return groups.Old, nil
		}
		if err := g.open(ctx, group); err != nil {
			return "", err
		}
		return groups.New, store.SetPhase(ctx, state.Following)
	}
	return groups.New, g.open(ctx, group)
}

// open opens what a rehearsal, or a switch that was undone, has left of a group's fence on the server that owns it, the new one.
func (g *Groups) open(ctx context.Context, group Group) error {
	b := g.Back
	store := g.store(group, b)
	return b.standing(group.Name(b.Name), store).TakeDown(ctx, "", func() {}, func(text string) { g.Logger.Warn(text) })
}
