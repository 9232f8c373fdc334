// Package handover hands groups of tables over from one server to the other while both flows run (decision 029): which groups
// there are and who owns them, what a group needs of fences and records, and the switch of the whole as that of a group.
package handover

import (
	"context"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/state"
)

// Mode is what is kept of a migration of which groups were handed over: both flows run.
type Mode struct {
	Pass   string  `json:"pass"`            // lets the appliers through the fences of both servers
	Last   int     `json:"last"`            // number of the group that was made last
	Groups []Group `json:"groups"`          // those that the new server owns, or that are being handed over
	Whole  bool    `json:"whole,omitempty"` // it owned everything before; when it does so again there are no groups
}

// Group is a set of tables that are handed over as one.
type Group struct {
	Number int            `json:"number"`
	Tables []catalog.Name `json:"tables"` // partitions and their parents, too
	Loose  []string       `json:"loose,omitempty"`
	Since  time.Time      `json:"since"`
	Rest   bool           `json:"rest,omitempty"`  // with it go the sequences of no table
	Split  bool           `json:"split,omitempty"` // it is about to be one: it was a part of another one that the new server owns
}

// Load reads what is kept; nil: there are no groups.
func Load(ctx context.Context, store *state.Store) (m *Mode, err error) {
	_, err = store.Values().Get(ctx, state.Groups, &m)
	return m, err
}

// Save keeps it; nil: there are none any more.
func (m *Mode) Save(ctx context.Context, store *state.Store) error {
	return store.Values().Put(ctx, state.Groups, m)
}

// all returns the groups; nil: there are none.
func (m *Mode) all() []Group {
	if m == nil {
		return nil
	}
	return m.Groups
}

// Away are the tables of all groups.
func (m *Mode) Away() map[catalog.Name]bool {
	away := map[catalog.Name]bool{}
	if m != nil {
		for i := range m.Groups {
			for _, t := range m.Groups[i].Tables {
				away[t] = true
			}
		}
	}
	return away
}

// Loose are the patterns of all groups.
func (m *Mode) Loose() (loose []string) {
	if m != nil {
		for i := range m.Groups {
			loose = append(loose, m.Groups[i].Loose...)
		}
	}
	return loose
}

// Add adds a group.
func (m *Mode) Add(tables []catalog.Name, loose []string) Group {
	m.Last++
	g := Group{Number: m.Last, Tables: tables, Loose: loose, Since: time.Now().UTC()}
	m.Groups = append(m.Groups, g)
	return g
}

// Without returns the mode without a group, which the old server owns.
func (m *Mode) Without(number int) *Mode {
	left := *m
	left.Whole = left.Whole && !slices.ContainsFunc(m.Groups, func(g Group) bool { return g.Number == number && g.Rest })
	left.Groups = slices.DeleteFunc(slices.Clone(m.Groups), func(g Group) bool { return g.Number == number })
	return &left
}

// Name is that of a group's objects in a direction: its fence, and its record on the server that the flow goes to. No
// migration has a dot in its name.
func (g Group) Name(n flow.Name) string { return n.Group(g.Number) }

// Has reports whether a table is one of the group's.
func (g Group) Has(name catalog.Name) bool { return slices.Contains(g.Tables, name) }

// Of returns those of tables that are the group's.
func (g Group) Of(tables []catalog.Table) (mine []catalog.Table) {
	for i := range tables {
		if g.Has(tables[i].Name) {
			mine = append(mine, tables[i])
		}
	}
	return mine
}

// Owned is why a migration is not given up: the new server owns some of its tables.
func Owned() error {
	return &fail.Error{Kind: fail.Gate, Problem: "groups of tables were handed over to the new server", Advice: "`walferry fallback` switches them back"}
}
