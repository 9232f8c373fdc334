package handover

import (
	"context"
	"slices"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/state"
)

// words are those of --insert-only about some tables.
func (s *Side) words(of func(catalog.Name) bool) *flow.Words {
	only := slices.DeleteFunc(s.Tables.InsertOnly(), func(t catalog.Table) bool { return !of(t.Name) })
	return flow.WordsOf(s.Name, s.From.Link, s.To.Link, s.Store, only)
}

// Words are all of a side while both flows run. Each flow keeps those about what its server owns: a table that is copied again is overwritten.
func (g *Groups) Words(s *Side) flow.Words {
	words := s.words(func(catalog.Name) bool { return true })
	words.Owned = func(ctx context.Context) (func(catalog.Name) bool, error) {
		away, leaving, err := g.read(ctx)
		return func(t catalog.Name) bool {
			if s == g.Back {
				return away[t] && !leaving[t]
			}
			return !away[t]
		}, err
	}
	return *words
}

// read reads what the new server owns, and what of that is being switched back, or was just now.
func (g *Groups) read(ctx context.Context) (away, leaving map[catalog.Name]bool, err error) {
	handed, err := groups.ReadHanded(ctx, g.Forth.To.Link, g.Forth.Store)
	if err != nil {
		return nil, nil, err
	}
	away, leaving = groups.Away(handed), map[catalog.Name]bool{}
	for _, group := range g.Mode().all() {
		switch phase, err := state.At(g.Back.To.Link, group.Name(g.Back.Name)).Phase(ctx); {
		case err != nil:
			return nil, nil, err
		case phase == state.Drained || phase == state.Switched:
			for _, t := range group.Tables {
				leaving[t] = true
			}
		}
	}
	return away, leaving, nil
}
