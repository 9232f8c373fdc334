package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// identityError ends a run because something that is followed is not what it was.
type identityError struct{ problem, advice string }

func (e *identityError) Error() string { return e.problem }

// Hint is what the operator can do.
func (e *identityError) Hint() string { return e.advice }

// anew is how a migration is begun anew.
const anew = "`walferry abort`, `walferry cleanup`, empty the target, `walferry migrate`"

// mustEnd is why the run cannot go on; nil: it can. Columns that were swapped, or made again, do not end it: changes of
// before that may be on their way, for columns that are as they were. The applier ends it at the first that is of after.
func mustEnd(c identity.Changes) error {
	switch {
	case len(c.Replaced) > 0:
		return &identityError{strings.Join(c.Replaced, "; "), "gap: what was written to the one that is gone and to the new one cannot be told apart any more; begin anew: " + anew}
	case c.Published != nil:
		return explainGap(c.Published)
	case len(c.Renamed) > 0:
		return &identityError{strings.Join(c.Renamed, "; "), "give them their old names back on the source; the slot is kept, and the same command goes on"}
	}
	return nil
}

// gateOn is why a cutover must not go on; nil: it may.
func gateOn(c identity.Changes) error {
	if err := mustEnd(c); err != nil {
		return &GateError{Problem: err.Error(), Advice: hintOf(err)}
	}
	if len(c.Swapped) > 0 {
		return &GateError{Problem: strings.Join(c.Swapped, "; "), Advice: "alter the target's columns as the source's were (rename, or drop and add them), or rename the source's back, and ask again"}
	}
	if len(c.Exchanged) > 0 {
		return &GateError{Problem: "tables of the target have each other's names: " + list(c.Exchanged), Advice: "give them on the target the names that they had when they were copied, as they have on the source, and ask again"}
	}
	if len(c.Places) > 0 {
		return &GateError{Problem: "tables have another place than they had: " + list(c.Places), Advice: "attach and detach (ATTACH PARTITION, DETACH PARTITION, INHERIT, NO INHERIT) on the target as was done on the source, or take it back on the source, and ask again; " +
			"rows of a table that is not migrated do not come with it"}
	}
	return nil
}

func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) {
		return ""
	}
	return hinted.Hint()
}

// changes holds what is followed against what it was when the migration began.
// It is looked at when a run begins, every minute, as a gate of the cutover, and once more
// inside the fence; the publications at every reconnect of the stream besides.
func (r *runner) changes(ctx context.Context, source session.Lender) (identity.Changes, error) {
	now, err := identity.Read(ctx, source, r.target)
	if err != nil {
		return identity.Changes{}, err
	}
	r.mu.Lock()
	found := identity.Compare(r.rec.Tables, now, r.c.Schema == "none", r.c.OnNewTable == IgnoreNewTables)
	r.mu.Unlock()
	if found.Marked {
		if err := r.keepTables(ctx); err != nil {
			return found, err
		}
	}
	found.Added = r.newTables(now.All)
	publications, err := r.publications(ctx)
	if err != nil {
		return found, err
	}
	err = source.Do(ctx, func(conn *pgx.Conn) error { return slot.CheckPublications(ctx, conn, publications) })
	var altered *slot.PublicationError
	if errors.As(err, &altered) {
		err = nil
		if !altered.Renamed || len(found.Renamed) == 0 {
			found.Published = altered
		}
	}
	return found, err
}

// publications are what the migration's publications were.
func (r *runner) publications(ctx context.Context) (map[string]slot.PublicationIdentity, error) {
	publications := map[string]slot.PublicationIdentity{}
	_, err := r.store.Values().Get(ctx, state.Publications, &publications)
	return publications, err
}

// keepTables records what has been found out about the tables.
func (r *runner) keepTables(ctx context.Context) error {
	r.mu.Lock()
	text, err := json.Marshal(r.rec.Tables)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.store.Values().Put(ctx, state.Tables, json.RawMessage(text))
}

// identityGate: what is followed is what it was, and the source has no table that the migration does not know.
// It returns the mark of the source's catalogue as of before it looked.
func (r *runner) identityGate(ctx context.Context, source session.Lender) (mark string, err error) {
	if mark, err = markOf(ctx, source); err != nil {
		return "", err
	}
	found, err := r.changes(ctx, source)
	if err != nil {
		return "", err
	}
	if err := gateOn(found); err != nil {
		return "", err
	}
	if len(found.Added) > 0 && r.c.OnNewTable == IgnoreNewTables {
		r.c.Logger.Warn("cutover: tables stay behind on the source (--on-new-table ignore)", "tables", list(found.Added))
		found.Added = nil
	}
	if len(found.Added) > 0 {
		return "", &GateError{
			Problem: "the source has got tables that this migration does not follow: " + list(found.Added),
			Advice:  "a table that was created after the slot is not copied: drop it on the source, run migrate with --on-new-table ignore, or abort and begin anew",
		}
	}
	return mark, nil
}

// markOf is what tells whether anything has changed in a server's catalogue.
func markOf(ctx context.Context, server session.Lender) (mark string, err error) {
	err = server.Do(ctx, func(conn *pgx.Conn) (err error) {
		mark, err = catalog.Mark(ctx, conn, session.Major(conn.PgConn()))
		return err
	})
	return mark, err
}

// marks are those of both sides.
func (r *runner) marks(ctx context.Context) (string, error) {
	source, err := markOf(ctx, r.source)
	if err != nil {
		return "", fmt.Errorf("source: %w", err)
	}
	target, err := markOf(ctx, r.target)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	return source + "; " + target, nil
}

// sameIdentity ends a run that begins where what it would follow is not what it was.
func (r *runner) sameIdentity(ctx context.Context) error {
	switch r.phase() {
	case Prepared, Copying, Indexing, Following:
	default:
		return nil
	}
	publications, err := r.publications(ctx)
	if err != nil {
		return err
	}
	older := slices.ContainsFunc(r.rec.Tables, func(t state.Table) bool { return t.Place == nil })
	for _, p := range publications {
		older = older || p.Entries == nil
	}
	if older {
		r.c.Logger.Warn("the migration was begun by an older version, which did not remember what tables are known by: " +
			"a table, column or publication that was made again, swapped or attached is noticed only where that version had noticed it")
	}
	found, err := r.changes(ctx, r.source)
	if err != nil {
		return err
	}
	return mustEnd(found)
}
