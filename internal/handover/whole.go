package handover

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wayback"
)

// Divisible returns an error if, while the new server owns everything, the tables that patterns name cannot be switched back alone.
func (g *Groups) Divisible(ctx context.Context, patterns, loose []string) error {
	if err := g.possible(ctx); err != nil {
		return err
	}
	if err := g.Forth.Tables.Select(ctx, true); err != nil {
		return err
	}
	all, away := g.Forth.Tables.Selected(), map[catalog.Name]bool{}
	named, err := entire(all, patterns)
	if err != nil {
		return err
	}
	var names []catalog.Name
	for i := range all {
		names = append(names, all[i].Name)
		if !slices.Contains(named, all[i].Name) {
			away[all[i].Name] = true
		}
	}
	if len(away) == 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "that is everything", Advice: "without --tables everything is switched back at once"}
	}
	if err := g.unjoined(ctx, away, loose); err != nil {
		return err
	}
	if err := g.fenceable(ctx, names); err != nil {
		return err
	}
	aside, err := wayback.Aside(ctx, g.Back.To.Link, g.Back.Store)
	if err == nil && aside > 0 {
		err = &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("%d triggers, rules and foreign keys of the old server are put aside while it follows, for everything at once", aside), Advice: "without --tables everything is switched back at once"}
	}
	return err
}

// Divide makes everything, which the new server owns, a group that was handed over: parts of it can be switched back then. The phase is still that of a
// whole; until it is another one, Merge undoes this. Both servers have a fence that knows pass.
func (g *Groups) Divide(ctx context.Context, pass string, waits online.Waits) error {
	m := &Mode{Pass: pass, Whole: true}
	var all []catalog.Name
	for _, t := range g.Forth.Tables.Selected() {
		all = append(all, t.Name)
	}
	m.Add(all, nil)
	m.Groups[0].Rest = true
	if err := g.save(ctx, m); err != nil {
		return err
	}
	if err := g.claim(ctx, m.Groups[0]); err != nil {
		return err
	}
	b, f := g.Back, g.Forth
	err := b.on(ctx, func(conn *pgx.Conn) error { // for what is switched back
		rest, err := g.fence(ctx, conn, b.Name.String(), b.Store.Run(), nil, waits)
		if err == nil {
			err = rest.TakeOver(ctx, conn)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := g.Part(ctx, m.Groups[0], f, waits); err != nil {
		return err
	}
	return f.on(ctx, func(conn *pgx.Conn) error { return g.remove(ctx, conn, f.Name.String()) })
}

// claim records that the new server owns a group, which was a part of what it owned before.
func (g *Groups) claim(ctx context.Context, group Group) error {
	store, err := g.record(ctx, group, g.Forth)
	if err == nil {
		_, err = g.record(ctx, group, g.Back)
	}
	if err != nil {
		return err
	}
	return store.SetPhase(ctx, state.Switched)
}

// Entire reports whether the new server owns everything, as it did before a part of it was switched back.
func (g *Groups) Entire() bool {
	if g.Mode() == nil || !g.Mode().Whole || g.Dividing {
		return false
	}
	all, away := g.Forth.Tables.Selected(), g.Mode().Away()
	return len(all) > 0 && !slices.ContainsFunc(all, func(t catalog.Table) bool { return !away[t.Name] })
}

// Whole prepares that what the new server owns is a whole again: of the fence there for what the old one owns nothing is left. Merge does the rest, in
// the phase of a whole.
func (g *Groups) Whole(ctx context.Context) error {
	return g.Back.on(ctx, func(conn *pgx.Conn) error { return g.remove(ctx, conn, g.Back.Name.String()) })
}

// split makes some tables of a group one of their own, with a fence of its own on the old server. Who owns them does not change.
func (g *Groups) split(ctx context.Context, group Group, names []catalog.Name, waits online.Waits) (Group, error) {
	m := *g.Mode()
	m.Groups = slices.Clone(m.Groups)
	n := slices.IndexFunc(m.Groups, func(o Group) bool { return o.Number == group.Number })
	m.Groups[n].Tables = slices.DeleteFunc(slices.Clone(group.Tables), func(t catalog.Name) bool { return slices.Contains(names, t) })
	m.Add(names, group.Loose)
	part := &m.Groups[len(m.Groups)-1]
	part.Since, part.Split = group.Since, true
	err := g.save(ctx, &m)
	if err == nil {
		err = g.settleSplit(ctx, waits)
	}
	return g.Mode().Groups[len(g.Mode().Groups)-1], err
}

// settleSplit completes what split has begun. Until then the tables are under the fence of the group that they were of, which must stay.
func (g *Groups) settleSplit(ctx context.Context, waits online.Waits) error {
	for i := range g.Mode().Groups {
		group := g.Mode().Groups[i]
		if !group.Split {
			continue
		}
		if err := g.claim(ctx, group); err != nil {
			return err
		}
		if err := g.Part(ctx, group, g.Forth, waits); err != nil {
			return err
		}
		m := *g.Mode()
		m.Groups = slices.Clone(m.Groups)
		m.Groups[i].Split = false
		if err := g.save(ctx, &m); err != nil {
			return err
		}
	}
	return nil
}
