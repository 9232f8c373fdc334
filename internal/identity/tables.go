package identity

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// Tables are those of a migration, as the source has them now and as they were when it began. Its
// methods may be called by several goroutines.
type Tables struct {
	From, To *session.Link
	Store    *state.Store
	Selection
	Looks  bool // nothing is recorded of what is found
	Logger *slog.Logger

	mu     sync.Mutex
	now    []catalog.Table // of the selection, as the source had them when Select was called last; partitioned parents too
	was    []state.Table
	beside []catalog.Name // see Beside
	behind []string       // that the last Gate let stay behind
}

// Selection says which tables are migrated, and what else there may be.
type Selection struct {
	Include, Exclude []string // patterns; empty Include: all
	Brought          bool     // somebody else has made the target's schema
	Lenient          bool     // tables of the source that are not migrated may come and go
}

// Select reads the source's tables and applies the patterns. With onlyKnown, those that came after
// the publications are left out: they are not followed, and so must not be copied.
func (t *Tables) Select(ctx context.Context, onlyKnown bool) error {
	return t.From.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Tables(ctx, conn)
		if err != nil {
			return err
		}
		selected, err := catalog.Select(all, t.Include, t.Exclude)
		if err != nil {
			return err
		}
		known := t.known()
		selected = slices.DeleteFunc(selected, func(s catalog.Table) bool { return s.Persistence != 'p' || onlyKnown && !known[s.Name] })
		t.mu.Lock()
		defer t.mu.Unlock()
		t.now = selected
		return nil
	})
}

// Selected returns the tables that Select has found, including partitioned parents.
func (t *Tables) Selected() []catalog.Table {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// WithRows returns those of them that hold rows.
func (t *Tables) WithRows() (tables []catalog.Table) {
	return slices.DeleteFunc(slices.Clone(t.Selected()), func(s catalog.Table) bool { return s.Kind != 'r' })
}

// Remember sets the tables as they were when the migration began.
func (t *Tables) Remember(was []state.Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.was = was
}

// Beside sets the tables of the source that are not followed, and were there when the flow was armed: they are not new.
func (t *Tables) Beside(names []catalog.Name) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beside = names
}

// Others returns the tables that the source has now and that are not followed.
func (t *Tables) Others(ctx context.Context) (names []catalog.Name, err error) {
	var all []catalog.Table
	err = t.From.Do(ctx, func(conn *pgx.Conn) (err error) {
		all, _, err = catalog.Outline(ctx, conn)
		return err
	})
	known := t.known()
	for i := range all {
		if s := &all[i]; s.Persistence == 'p' && !known[s.Name] {
			names = append(names, s.Name)
		}
	}
	return names, err
}

// Remembered returns the tables as they were when the migration began.
func (t *Tables) Remembered() []state.Table {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := slices.Clone(t.was)
	for i := range was { // which are marked when they are gone
		was[i].Columns = slices.Clone(was[i].Columns)
	}
	return was
}

// InsertOnly returns those that the user says are only ever inserted into.
func (t *Tables) InsertOnly() []catalog.Table {
	t.mu.Lock()
	defer t.mu.Unlock()
	only := state.InsertOnly(t.was)
	for i := range only { // of a record of an older version, which had no oids
		for j := range t.now {
			if only[i].OID == 0 && t.now[j].Name == only[i].Name {
				only[i].OID = t.now[j].OID
			}
		}
	}
	return only
}

// Migrated returns the source's tables that the migration has, in the order of its record. For one
// that is gone from the source, or was replaced, it returns what is remembered of it, so that it is
// reported.
func (t *Tables) Migrated(ctx context.Context) (tables []catalog.Table, err error) {
	var all []catalog.Table
	err = t.From.Do(ctx, func(conn *pgx.Conn) (err error) {
		all, err = catalog.Tables(ctx, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	now := byName(all)
	for _, was := range t.Remembered() {
		if found := now[was.Name]; found != nil && (was.OID == 0 || found.OID == was.OID) {
			tables = append(tables, *found)
		} else {
			tables = append(tables, catalog.Table{OID: was.OID, Name: was.Name, Kind: 'r'})
		}
	}
	return tables, nil
}

// Describe returns the selected tables as they are now on both sides, as they will be remembered.
// insertOnly are the patterns of those that the user says are only ever inserted into.
func (t *Tables) Describe(ctx context.Context, insertOnly []string) (states []state.Table, err error) {
	selected := t.Selected()
	var only []catalog.Table
	if len(insertOnly) > 0 {
		if only, err = catalog.Select(selected, insertOnly, nil); err != nil {
			return nil, err
		}
	}
	now, err := read(ctx, t.From, t.To)
	if err != nil {
		return nil, err
	}
	for i := range selected {
		s := &selected[i]
		table := state.Table{OID: s.OID, Name: s.Name, Kind: string(s.Kind)}
		if s.Kind == 'r' {
			table.Columns = columnsOf(s)
			table.InsertOnly = slices.ContainsFunc(only, func(o catalog.Table) bool { return o.OID == s.OID })
		}
		states = append(states, table)
	}
	return states, t.From.Do(ctx, func(conn *pgx.Conn) error { return describe(ctx, conn, states, now) })
}

// Publications returns what the migration's publications were.
func (t *Tables) Publications(ctx context.Context) (map[string]slot.PublicationIdentity, error) {
	publications := map[string]slot.PublicationIdentity{}
	_, err := t.Store.Values().Get(ctx, state.Publications, &publications)
	return publications, err
}

// keep records what has been found out about the tables.
func (t *Tables) keep(ctx context.Context) error {
	t.mu.Lock()
	text, err := json.Marshal(t.was)
	t.mu.Unlock()
	if err != nil {
		return err
	}
	return t.Store.Values().Put(ctx, state.Tables, json.RawMessage(text))
}

// known returns the tables that the publications were created with.
func (t *Tables) known() map[catalog.Name]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := map[catalog.Name]bool{}
	for _, was := range t.was {
		known[was.Name] = true
	}
	return known
}
