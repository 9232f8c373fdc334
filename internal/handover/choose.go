package handover

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
)

// Choose returns the tables that patterns name for a new group, if nothing joins them to what the old server keeps but what loose
// patterns name.
func (g *Groups) Choose(ctx context.Context, patterns, loose []string) (tables []catalog.Name, err error) {
	if err := g.possible(ctx); err != nil {
		return nil, err
	}
	if tables, err = entire(g.Forth.Tables.Selected(), patterns); err != nil {
		return nil, err
	}
	away := g.Mode().Away()
	for _, t := range tables {
		if away[t] {
			return nil, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("%s is the new server's already", t), Advice: "`walferry groups` shows who owns what"}
		}
	}
	for _, t := range tables {
		away[t] = true
	}
	if err := g.unjoined(ctx, away, append(g.Mode().Loose(), loose...)); err != nil {
		return nil, err
	}
	return tables, g.fenceable(ctx, tables)
}

func top(t *catalog.Table) string { return cmp.Or(t.Root, t.Plain()) }

// entire returns the tables that patterns name, with partitioned tables and all their partitions, which have one owner.
func entire(all []catalog.Table, patterns []string) (tables []catalog.Name, err error) {
	chosen, err := catalog.Match(all, patterns)
	if err != nil {
		return nil, err
	}
	whole := map[string]bool{}
	for i := range chosen {
		whole[top(&chosen[i])] = true
	}
	for i := range all {
		t := &all[i]
		if !whole[top(t)] {
			continue
		}
		if t.Kind == 'r' && !slices.ContainsFunc(chosen, func(c catalog.Table) bool { return c.Name == t.Name }) {
			return nil, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("%s belongs to %s, of which a part was named", t, top(t)), Advice: "partitions have one owner: name " + top(t)}
		}
		tables = append(tables, t.Name)
	}
	return tables, nil
}

// ChooseBack returns the groups that patterns name, of which a part becomes a group of its own; no pattern: every group. Nothing may join them to what the new
// server keeps.
func (g *Groups) ChooseBack(ctx context.Context, patterns, loose []string, waits online.Waits) (chosen []Group, err error) {
	if g.Mode() == nil || len(g.Mode().Groups) == 0 {
		return nil, &fail.Error{Kind: fail.Gate, Problem: "no group of tables was handed over: the old server owns all", Advice: "`walferry groups` shows who owns what"}
	}
	if len(patterns) == 0 {
		return slices.Clone(g.Mode().Groups), nil
	}
	names, err := entire(g.Back.Tables.Selected(), patterns)
	if err != nil {
		return nil, err
	}
	away, named := g.Mode().Away(), map[int][]catalog.Name{}
	for _, t := range names {
		n := slices.IndexFunc(g.Mode().Groups, func(group Group) bool { return group.Has(t) })
		if n < 0 {
			return nil, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("%s is the old server's", t), Advice: "`walferry groups` shows who owns what"}
		}
		group := &g.Mode().Groups[n]
		if len(named[group.Number]) == 0 {
			chosen = append(chosen, *group)
		}
		named[group.Number] = append(named[group.Number], t)
		delete(away, t)
	}
	if err := g.unjoined(ctx, away, append(g.Mode().Loose(), loose...)); err != nil {
		return nil, err
	}
	for i, group := range chosen {
		if tables := named[group.Number]; len(tables) < len(group.Tables) {
			if chosen[i], err = g.split(ctx, group, tables, waits); err != nil {
				return nil, err
			}
		}
	}
	return chosen, nil
}

// String lists the group's tables.
func (g Group) String() string { return catalog.List(g.Names()) }

// Names are the group's tables, as schema.table.
func (g Group) Names() (names []string) {
	for _, t := range g.Tables {
		names = append(names, t.Plain())
	}
	return names
}

// unjoined returns an error if something joins tables that are the new server's, away, to others.
func (g *Groups) unjoined(ctx context.Context, away map[catalog.Name]bool, loose []string) error {
	all := g.Forth.Tables.Selected()
	known, out := map[catalog.Name]bool{}, map[string]bool{}
	for i := range all {
		known[all[i].Name] = true
		if away[all[i].Name] {
			out[top(&all[i])] = true
		}
	}
	joints, unowned, err := groups.Joints(ctx, g.Forth.From.Link, g.Forth.To.Link, g.Forth.Store, func(t catalog.Table) bool { return known[t.Name] })
	if err != nil {
		return err
	}
	cut, err := named(all, unowned, loose)
	if err != nil {
		return err
	}
	var held []string
	for _, j := range joints {
		if a, b := j.Tables[0], j.Tables[1]; out[a] != out[b] && !cut[a] && !cut[b] {
			held = append(held, j.String())
		}
	}
	if len(held) > 0 {
		more := ""
		if n := len(held) - 3; n > 0 {
			held, more = held[:3], fmt.Sprintf("; and %d more", n)
		}
		return &fail.Error{
			Kind: fail.Gate, Problem: "the group is joined to tables that stay: " + strings.Join(held, "; ") + more,
			Advice: "name those, too (`walferry groups` shows what belongs together), or cut the joints with a table: --loose SCHEMA.TABLE. What writes to both sides is refused then",
		}
	}
	for _, s := range unowned {
		if !cut[s] {
			return &fail.Error{
				Kind: fail.Gate, Problem: "sequence " + s + " belongs to no table: who draws from it on both servers gets numbers twice",
				Advice: "let a column own it (alter sequence ... owned by), or, if nobody who is handed over draws from it, --loose " + s,
			}
		}
	}
	return nil
}

// named returns which tables and sequences patterns name.
func named(tables []catalog.Table, sequences, patterns []string) (map[string]bool, error) {
	all := slices.Clone(tables)
	for _, s := range sequences {
		schema, name, _ := strings.Cut(s, ".")
		all = append(all, catalog.Table{Name: catalog.Name{Schema: schema, Name: name}, Kind: 'r'})
	}
	matched, err := catalog.Match(all, patterns)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for i := range matched {
		names[top(&matched[i])] = true
	}
	return names, nil
}

// possible returns an error if groups cannot be handed over in this migration.
func (g *Groups) possible(ctx context.Context) error {
	for name, link := range map[string]*session.Link{"old": g.Forth.From.Link, "new": g.Back.From.Link} {
		may, err := session.MaySetReplicaRole(ctx, link)
		if err != nil {
			return err
		}
		if !may {
			return &fail.Error{Kind: fail.Gate, Problem: "the role may not set session_replication_role on the " + name + " server: triggers and foreign keys would act on what is applied there", Advice: "there, GRANT SET ON PARAMETER session_replication_role (from 15 on), or connect as a superuser (rds_superuser), or switch everything at once"}
		}
	}
	return nil
}

// fenceable returns an error if tables cannot have a fence of their own.
func (g *Groups) fenceable(ctx context.Context, tables []catalog.Name) error {
	group := Group{Tables: tables}
	mine := group.Of(g.Forth.Tables.Selected())
	if err := g.Plain(ctx, mine); err != nil {
		return err
	}
	var oids []uint32
	for i := range mine {
		oids = append(oids, mine[i].OID)
	}
	return g.Forth.From.Link.Do(ctx, func(conn *pgx.Conn) error {
		parents, err := catalog.Parents(ctx, conn, oids)
		if err != nil || len(parents) == 0 {
			return err
		}
		return &fail.Error{Kind: fail.Gate, Problem: parents[0].String() + ", which is not in the group, is a parent of tables that are: a statement on it changes their rows", Advice: "name it, too, or switch everything at once"}
	})
}
