package handover

import (
	"context"
	"errors"
	"slices"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/groups"
)

// Ahead keeps the sequences of what either server does not own ahead of those of its owner: should a server have to be opened by hand it draws no key
// that was drawn on the other one. A sequence that tables of both servers draw from is left alone: each would run away from the other.
type Ahead struct {
	groups      *Groups
	forth, back *cutover.Ahead
	away        map[catalog.Name]bool // what the new server owns
}

// Ahead returns what keeps them ahead while both flows run. It is not to be used while who owns a group changes.
func (g *Groups) Ahead() *Ahead {
	a := &Ahead{groups: g}
	a.forth, a.back = a.of(g.Forth, false), a.of(g.Back, true)
	return a
}

// of returns what keeps those ahead on the server that a side goes to that belong to tables which are away, or to the others.
func (a *Ahead) of(s *Side, away bool) *cutover.Ahead {
	c := s.Sequences()
	c.Tables = func() []catalog.Table {
		return slices.DeleteFunc(slices.Clone(s.Tables.Selected()), func(t catalog.Table) bool { return a.away[t.Name] != away })
	}
	return &cutover.Ahead{Carrier: c, Only: func(q catalog.Sequence) bool {
		return !slices.ContainsFunc(s.Tables.Selected(), func(t catalog.Table) bool {
			return a.away[t.Name] != away && (q.Owner == t.Plain() || slices.Contains(q.Users, t.Plain()))
		})
	}}
}

// Keep looks at both servers.
func (a *Ahead) Keep(ctx context.Context) error {
	g := a.groups
	handed, err := groups.ReadHanded(ctx, g.Forth.To.Link, g.Forth.Store)
	if err != nil {
		return err
	}
	a.away = groups.Away(handed)
	rest := g.WithRest()
	a.forth.Carrier.Owned, a.back.Carrier.Owned = rest, !rest
	return errors.Join(a.forth.Keep(ctx), a.back.Keep(ctx))
}

// WithRest reports whether the new server owns the sequences of no table.
func (g *Groups) WithRest() bool {
	m := g.Mode()
	return m != nil && slices.ContainsFunc(m.Groups, func(group Group) bool { return group.Rest })
}
