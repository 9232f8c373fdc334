// Package groups is about which tables of a migration belong together: what joins them, so that they must have
// one owner, and which sets of tables that makes, each of which could be handed over on its own.
package groups

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/catalog"
)

// Owner is the server whose applications may write to a table.
type Owner string

// The owners.
const (
	Old Owner = "old"
	New Owner = "new"
	// Mixed: some are the old one's, some the new one's; what joins them was cut knowingly.
	Mixed Owner = "mixed"
)

// Kind is how two tables are joined.
type Kind string

// The kinds.
const (
	ByForeignKey   Kind = "foreign key"
	ByInheritance  Kind = "inheritance"
	BySequence     Kind = "sequence"
	ByTrigger      Kind = "trigger"
	ByRule         Kind = "rule"
	ByTransactions Kind = "transactions"
)

// Joint is what joins two tables. A partition counts as its topmost parent.
type Joint struct {
	Kind   Kind     `json:"kind"`
	Tables []string `json:"tables"` // two of them, as schema.table
	Name   string   `json:"name"`   // of the constraint, the sequence, the trigger or the rule; empty: it has none

	// Of transactions: how many have written to both, and the last of them.
	Count int64      `json:"count,omitempty"`
	XID   uint32     `json:"xid,omitempty"`
	LSN   string     `json:"lsn,omitempty"`
	At    *time.Time `json:"at,omitempty"`
}

// String says why two tables belong together.
func (j Joint) String() string {
	a, b := j.Tables[0], j.Tables[1]
	switch j.Kind {
	case ByForeignKey:
		return fmt.Sprintf("%s refers to %s (foreign key %s)", a, b, j.Name)
	case ByInheritance:
		return fmt.Sprintf("%s inherits from %s", a, b)
	case BySequence:
		return fmt.Sprintf("%s and %s draw from one sequence, %s", a, b, j.Name)
	case ByTrigger:
		return fmt.Sprintf("%s has a trigger that writes to %s (%s)", a, b, j.Name)
	case ByRule:
		return fmt.Sprintf("%s has a rule that refers to %s (%s)", a, b, j.Name)
	}
	text := fmt.Sprintf("%d transactions have written to %s and %s; the last one was", j.Count, a, b)
	if j.Count == 1 {
		text = fmt.Sprintf("a transaction has written to %s and %s:", a, b)
	}
	text += fmt.Sprintf(" %d, at %s", j.XID, j.LSN)
	if j.At != nil {
		text += ", " + j.At.UTC().Format("2006-01-02 15:04:05 MST")
	}
	return text
}

// Group is a set of tables that are joined, directly or by others; nothing joins them to a table outside.
type Group struct {
	Owner      Owner    `json:"owner"`
	Tables     []string `json:"tables"` // as schema.table, sorted; partitions are left out
	Partitions int      `json:"partitions"`
	Joints     []Joint  `json:"joints"`
}

// found is what the parts of joints and groups are made of.
type found struct {
	tables []catalog.Table
	joints []Joint
	has    map[string]bool // of each joint
}

// top returns the name under which each table counts.
func (f *found) top() map[catalog.Name]string {
	top := map[catalog.Name]string{}
	for i := range f.tables {
		t := &f.tables[i]
		top[t.Name] = cmp.Or(t.Root, t.Plain())
	}
	return top
}

// join adds a joint, unless one of the tables is not of the migration, or both are the same.
func (f *found) join(top map[catalog.Name]string, a, b catalog.Name, j Joint) {
	first, second := top[a], top[b]
	if first == "" || second == "" || first == second {
		return
	}
	j.Tables = []string{first, second}
	if f.has == nil {
		f.has = map[string]bool{}
	}
	if key := fmt.Sprintf("%s %q %q", j.Kind, j.Name, j.Tables); !f.has[key] { // both servers have it, and partitions
		f.has[key] = true
		f.joints = append(f.joints, j)
	}
}

// inCatalog adds what the catalogue shows.
func (f *found) inCatalog(references []catalog.Reference, sequences []catalog.Sequence, writes []catalog.Write) {
	top := f.top()
	quoted := map[string]catalog.Name{}
	plain := map[string]catalog.Name{}
	for i := range f.tables {
		quoted[f.tables[i].String()], plain[f.tables[i].Plain()] = f.tables[i].Name, f.tables[i].Name
	}
	for _, r := range references {
		f.join(top, r.From, r.To, Joint{Kind: ByForeignKey, Name: r.Constraint})
	}
	for i := range f.tables {
		for _, parent := range f.tables[i].Parents {
			f.join(top, f.tables[i].Name, quoted[parent], Joint{Kind: ByInheritance})
		}
	}
	for _, s := range sequences {
		users := s.Users
		if s.Owner != "" && !slices.Contains(users, s.Owner) {
			users = append([]string{s.Owner}, users...)
		}
		for _, user := range users[min(1, len(users)):] {
			f.join(top, plain[users[0]], plain[user], Joint{Kind: BySequence, Name: s.Plain()})
		}
	}
	for _, w := range writes {
		if at := slices.IndexFunc(w.To, func(n catalog.Name) bool { return top[n] != "" }); at >= 0 {
			f.join(top, w.From, w.To[at], Joint{Kind: Kind(w.Kind), Name: w.Name})
		}
	}
}

// inStream adds what the stream has shown.
func (f *found) inStream(e Evidence) {
	top := f.top()
	for _, t := range e.Together {
		at := t.At
		f.join(top, t.Tables[0], t.Tables[1], Joint{Kind: ByTransactions, Count: t.Count, XID: t.XID, LSN: t.LSN.String(), At: &at})
	}
}

// groups returns the sets of tables that are joined, those with most tables first.
func (f *found) groups(owner func(catalog.Name) Owner) []Group {
	group := map[string]*Group{} // of each table
	for table, name := range f.top() {
		if group[name] == nil {
			group[name] = &Group{Owner: owner(table), Tables: []string{name}, Joints: []Joint{}}
		}
	}
	for _, j := range f.joints {
		into, from := group[j.Tables[0]], group[j.Tables[1]]
		if into == from {
			continue
		}
		if len(into.Tables) < len(from.Tables) {
			into, from = from, into
		}
		into.Tables = append(into.Tables, from.Tables...)
		if into.Owner != from.Owner {
			into.Owner = Mixed
		}
		for _, name := range from.Tables {
			group[name] = into
		}
	}
	for _, j := range f.joints {
		g := group[j.Tables[0]]
		g.Joints = append(g.Joints, j)
	}
	for i := range f.tables {
		if t := &f.tables[i]; t.Root != "" {
			group[t.Root].Partitions++
		}
	}
	distinct := map[*Group]bool{}
	for _, g := range group {
		distinct[g] = true
	}
	all := []Group{}
	for g := range maps.Keys(distinct) {
		slices.Sort(g.Tables)
		slices.SortStableFunc(g.Joints, func(a, b Joint) int { return cmp.Compare(b.Count, a.Count) })
		slices.SortStableFunc(g.Joints, func(a, b Joint) int { return cmp.Compare(rank(a), rank(b)) })
		all = append(all, *g)
	}
	slices.SortFunc(all, func(a, b Group) int {
		return cmp.Or(cmp.Compare(len(b.Tables), len(a.Tables)), cmp.Compare(a.Tables[0], b.Tables[0]))
	})
	return all
}

// rank orders joints: what the catalogue shows comes first.
func rank(j Joint) int {
	return slices.Index([]Kind{ByForeignKey, ByInheritance, BySequence, ByTrigger, ByRule, ByTransactions}, j.Kind)
}
