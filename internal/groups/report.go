package groups

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Report is which tables of a migration belong together, and why. Its JSON is stable.
type Report struct {
	Name   string      `json:"name"`
	Phase  state.Phase `json:"phase"` // empty: there is no migration of that name; the tables are those that the source has
	Groups []Group     `json:"groups"`

	// Transactions is how many the stream has shown that have written to tables of the migration, and Since when the first was; nil: none yet,
	// so that what only transactions join is not known.
	Transactions int64   `json:"transactions"`
	Since        *string `json:"since"`

	// Unowned are sequences of no table: nobody knows who draws from them.
	Unowned []string `json:"sequences_of_no_table"`
}

// Read asks both servers. With no migration of that name on the target it is about all tables that the source has.
func Read(ctx context.Context, source, target session.Config, name string) (r Report, err error) {
	r.Name = name
	to, err := session.OpenLink(ctx, target, nil)
	if err != nil {
		return r, err
	}
	defer to.Close()
	from, err := session.OpenLink(ctx, source, nil)
	if err != nil {
		return r, err
	}
	defer from.Close()
	store := state.At(to, name)
	var record *state.Record
	var seen Evidence
	var handed []Handed
	err = store.Read(ctx, func() error {
		if record, err = store.Load(ctx); err != nil || record == nil {
			return err
		}
		_, err := store.Values().Get(ctx, state.Seen, &seen)
		if err == nil {
			handed, err = ReadHanded(ctx, to, store)
		}
		return err
	})
	if err != nil {
		return r, err
	}
	owner, away := Old, Away(handed)
	known := map[catalog.Name]bool{}
	if record != nil {
		r.Phase = record.Phase
		if r.Phase == state.Switched || r.Phase == state.Finished {
			owner = New
		}
		for i := range record.Tables {
			known[record.Tables[i].Name] = true
		}
	}
	f, unowned, err := look(ctx, from, to, seen, func(t catalog.Table) bool { return len(known) == 0 || known[t.Name] })
	if err != nil {
		return r, err
	}
	r.Unowned = unowned
	if seen.Transactions > 0 {
		since := seen.Since.UTC().Format("2006-01-02T15:04:05Z")
		r.Transactions, r.Since = seen.Transactions, &since
	}
	r.Groups = f.groups(func(t catalog.Name) Owner {
		if away[t] {
			return New
		}
		return owner
	})
	return r, nil
}

// Joints returns what joins the tables of a migration, and the sequences of no table.
func Joints(ctx context.Context, from, to *session.Link, store *state.Store, known func(catalog.Table) bool) (joints []Joint, unowned []string, err error) {
	var seen Evidence
	if _, err := store.Values().Get(ctx, state.Seen, &seen); err != nil {
		return nil, nil, err
	}
	f, unowned, err := look(ctx, from, to, seen, known)
	if err != nil {
		return nil, nil, err
	}
	return f.joints, unowned, nil
}

// look reads the catalogues of both servers.
func look(ctx context.Context, from, to *session.Link, seen Evidence, known func(catalog.Table) bool) (f *found, unowned []string, err error) {
	f, unowned = &found{}, []string{}
	err = from.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Tables(ctx, conn)
		if err != nil {
			return err
		}
		f.tables = slices.DeleteFunc(all, func(t catalog.Table) bool { return t.Persistence != 'p' || t.Extension != "" || !known(t) })
		sequences, err := catalog.Sequences(ctx, conn)
		if err != nil {
			return err
		}
		for _, s := range sequences {
			if s.Owner == "" && len(s.Users) == 0 {
				unowned = append(unowned, s.Plain())
			}
		}
		references, err := catalog.References(ctx, conn)
		if err != nil {
			return err
		}
		writes, err := catalog.Writes(ctx, conn)
		f.inCatalog(references, sequences, writes)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("source: %w", err)
	}
	// The target may have foreign keys and triggers of its own, and gets more after the switch.
	err = to.Do(ctx, func(conn *pgx.Conn) error {
		references, err := catalog.References(ctx, conn)
		if err != nil {
			return err
		}
		writes, err := catalog.Writes(ctx, conn)
		f.inCatalog(references, nil, writes)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("target: %w", err)
	}
	f.inStream(seen)
	return f, unowned, nil
}
