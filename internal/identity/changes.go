package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// ErrReplaced is in the error of MustEnd for tables that were dropped and made again.
var ErrReplaced = errors.New("tables were replaced")

// MustEnd returns why the run cannot continue; nil: it can. Columns that were swapped, or created
// again, do not end it: changes from before that may still be on their way, for the columns as they
// were. The applier ends the run at the first change from after it.
func (c Changes) MustEnd() error {
	switch {
	case len(c.Replaced) > 0:
		return &fail.Error{Kind: fail.Run, Problem: strings.Join(c.Replaced, "; "), Advice: "gap: what was written to the one that is gone and to the new one cannot be told apart any more; start over: " + sides.StartOver, Err: ErrReplaced}
	case c.Published != nil:
		return ExplainGap(c.Published)
	case len(c.Renamed) > 0:
		return &fail.Error{Kind: fail.Run, Problem: strings.Join(c.Renamed, "; "), Advice: "give them their old names back on the source; the slot is kept, and the same command resumes"}
	}
	return nil
}

// gate returns why a cutover must not continue; nil: it may.
func (c Changes) gate() error {
	if err := c.MustEnd(); err != nil {
		return &fail.Error{Kind: fail.Gate, Problem: err.Error(), Advice: fail.Hint(err), Err: err}
	}
	if len(c.Swapped) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: strings.Join(c.Swapped, "; "), Advice: "alter the target's columns as the source's were (rename, or drop and add them), or rename the source's back, and ask again"}
	}
	if len(c.Exchanged) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "tables of the target have each other's names: " + catalog.List(c.Exchanged), Advice: "give them on the target the names that they had when they were copied, as they have on the source, and ask again"}
	}
	if len(c.Places) > 0 {
		return &fail.Error{Kind: fail.Gate, Problem: "tables have another place than they had: " + catalog.List(c.Places), Advice: "attach and detach (ATTACH PARTITION, DETACH PARTITION, INHERIT, NO INHERIT) on the target as was done on the source, or take it back on the source, and ask again; " +
			"rows of a table that is not migrated do not come with it"}
	}
	return nil
}

// Changes compares what is followed with what it was when the migration began. That is done when a
// run begins, every minute, as a gate of the cutover, and once more inside the fence; for the
// publications also at every reconnect of the stream.
func (t *Tables) Changes(ctx context.Context, source session.Lender) (Changes, error) {
	publications, err := t.Publications(ctx)
	if err != nil {
		return Changes{}, err
	}
	// First: a table that is dropped between the two looks is to be called that, not one that a publication has lost.
	var altered *slot.PublicationError
	err = source.Do(ctx, func(conn *pgx.Conn) error { return slot.CheckPublications(ctx, conn, publications) })
	if err != nil && !errors.As(err, &altered) {
		return Changes{}, err
	}
	now, err := read(ctx, source, t.To)
	if err != nil {
		return Changes{}, err
	}
	t.mu.Lock()
	found := compare(t.was, now, t.Brought, t.Lenient)
	t.mu.Unlock()
	if altered != nil && (!altered.Renamed || len(found.Renamed) == 0) {
		found.Published = altered
	}
	if found.Marked && !t.Looks {
		if err := t.keep(ctx); err != nil {
			return found, err
		}
	}
	found.Added = t.added(now.All)
	return found, nil
}

// added returns those of the selection that are in no publication of the migration.
func (t *Tables) added(all []catalog.Table) (names []string) {
	selected, err := catalog.Select(all, t.Include, t.Exclude)
	if err != nil {
		return nil // nothing is selected any more
	}
	known := t.known()
	t.mu.Lock()
	for _, name := range t.beside {
		known[name] = true
	}
	t.mu.Unlock()
	for i := range selected {
		if s := &selected[i]; s.Persistence == 'p' && !known[s.Name] {
			names = append(names, s.String())
		}
	}
	return names
}

// Gate returns an error unless what is followed is what it was, and the source has no table that
// the migration does not know. It returns the mark of the source's catalog as of before it looked.
func (t *Tables) Gate(ctx context.Context, source session.Lender) (mark string, err error) {
	if mark, err = markOf(ctx, source); err != nil {
		return "", err
	}
	found, err := t.Changes(ctx, source)
	if err != nil {
		return "", err
	}
	if err := found.gate(); err != nil {
		return "", err
	}
	if t.Lenient {
		t.mu.Lock()
		t.behind, found.Added = found.Added, nil
		t.mu.Unlock()
	}
	if len(found.Added) > 0 {
		return "", &fail.Error{
			Kind:    fail.Gate,
			Problem: "the source has got tables that this migration does not follow: " + catalog.List(found.Added),
			Advice:  "a table that was created after the slot is not copied: drop it on the source, run migrate with --on-new-table ignore, which leaves it behind, or start over: " + sides.StartOver,
		}
	}
	return mark, nil
}

// Behind returns the tables of the source that are not followed, and that the last Gate has let stay behind.
func (t *Tables) Behind() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.behind
}

// markOf returns a text that changes with a server's catalog.
func markOf(ctx context.Context, server session.Lender) (mark string, err error) {
	err = server.Do(ctx, func(conn *pgx.Conn) (err error) {
		mark, err = catalog.Mark(ctx, conn, session.Major(conn.PgConn()))
		return err
	})
	return mark, err
}

// Marks returns a text that changes with the catalog of either side.
func (t *Tables) Marks(ctx context.Context) (string, error) {
	source, err := markOf(ctx, t.From)
	if err != nil {
		return "", fmt.Errorf("source: %w", err)
	}
	target, err := markOf(ctx, t.To)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	return source + "; " + target, nil
}

// CheckAgain returns an error if a run that resumes must not continue, as what it would follow is not
// what it was.
func (t *Tables) CheckAgain(ctx context.Context) error {
	publications, err := t.Publications(ctx)
	if err != nil {
		return err
	}
	older := slices.ContainsFunc(t.Remembered(), func(t state.Table) bool { return t.Place == nil })
	for _, p := range publications {
		older = older || p.Entries == nil
	}
	if older {
		t.Logger.Warn("the migration was begun by an older version, which did not remember what tables are known by: " +
			"a table, column or publication that was created again, swapped or attached is noticed only where that version had noticed it")
	}
	found, err := t.Changes(ctx, t.From)
	if err != nil {
		return err
	}
	return found.MustEnd()
}
