package groups

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Handed is a group of tables that was handed over to the new server.
type Handed struct {
	Tables []catalog.Name
	Since  time.Time // when it was asked for
}

// ReadHanded reads what groups the new server owns, to, where the migration's record is.
func ReadHanded(ctx context.Context, to *session.Link, store *state.Store) (handed []Handed, err error) {
	var kept struct {
		Groups []struct {
			Number int
			Split  bool
			Handed
		}
	}
	if _, err := store.Values().Get(ctx, state.Groups, &kept); err != nil {
		return nil, err
	}
	for _, g := range kept.Groups {
		r, err := state.At(to, flow.Name{Migration: store.Name()}.Group(g.Number)).Phase(ctx)
		if err != nil {
			return nil, err
		}
		if r == state.Switched || g.Split { // otherwise it is about to be
			handed = append(handed, g.Handed)
		}
	}
	return handed, nil
}

// Away are the tables of groups.
func Away(handed []Handed) map[catalog.Name]bool {
	away := map[catalog.Name]bool{}
	for _, g := range handed {
		for _, t := range g.Tables {
			away[t] = true
		}
	}
	return away
}
