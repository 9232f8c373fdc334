package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/wait"
)

// identityInterval is how many heartbeats lie between two looks at what is followed.
const identityInterval = 12

// errRetained is the cause of the error that gives a migration up so that the source survives.
var errRetained = errors.New("the slot held back too much WAL")

// retained gives the migration up.
func retained(bytes, limit int64) error {
	return &fail.Error{
		Kind: fail.Run,
		Problem: fmt.Sprintf("the slot held back %d MB of WAL on the source, more than the %d MB of --max-retained-wal: "+
			"THE MIGRATION IS GIVEN UP so that the source does not run out of space; slot and publication are dropped, the target's data are unfit", bytes>>20, limit>>20),
		Advice: "find out what held it up (`walferry status`, the target's locks, the network), allow more, and start over: `walferry cleanup`, empty the target, `walferry migrate`",
		Err:    errRetained,
	}
}

// newTables ends a run because of tables that it cannot follow.
func newTables(tables []string) error {
	return &fail.Error{
		Kind:    fail.Run,
		Problem: "the source has got tables that this migration does not follow: " + list(tables),
		Advice:  "drop them on the source; or leave them behind with --on-new-table ignore, and move them by a second migration (--name, --include); the slot is kept, and the same command resumes",
	}
}

// guard watches what may end a run from outside: the WAL that the slot holds back, what has become
// of the tables, and tables that are new.
type guard struct {
	c         Config
	live      *status.Live
	migrated  *identity.Tables
	retention *flow.Retention

	tables  string // new ones that were reported last
	places  string // likewise
	swapped string
	whole   string // publications FOR ALL TABLES, likewise
	marks   string // of both catalogues, when all of them was read last
}

// watch guards until ctx ends.
func (g *guard) watch(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(g.c.Heartbeat)
	defer tick.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		if err := g.slot(ctx, stop); err != nil && ctx.Err() == nil {
			g.c.Logger.Debug("look at the slot", "error", err)
		}
		if n%identityInterval == 0 {
			if err := g.identity(ctx, stop); err != nil && ctx.Err() == nil {
				g.c.Logger.Debug("look at what is followed", "error", err)
			}
			if err := g.readers(ctx); err != nil && ctx.Err() == nil {
				g.c.Logger.Debug("look at who is sent what walferry writes", "error", err)
			}
		}
		wait.Tick(ctx, tick)
	}
}

// slot looks at the WAL that the slot holds back.
func (g *guard) slot(ctx context.Context, stop context.CancelCauseFunc) error {
	now, ok, err := g.retention.Look(ctx)
	if err != nil || !ok {
		return err
	}
	g.live.Retains(now)
	if g.c.MaxRetainedWAL > 0 && now.Bytes >= g.c.MaxRetainedWAL && g.mayGiveUp() {
		stop(retained(now.Bytes, g.c.MaxRetainedWAL))
	}
	return nil
}

// mayGiveUp reports whether no cutover is in progress, which takes seconds.
func (g *guard) mayGiveUp() bool {
	switch g.live.Phase() {
	case Prepared, Copying, Indexing, Following:
		return true
	}
	return false
}

// identity looks at what has become of the tables that are followed, and for new ones.
func (g *guard) identity(ctx context.Context, stop context.CancelCauseFunc) error {
	if !g.mayGiveUp() || g.c.Until == UntilCopied && g.live.Phase() == Indexing { // then the publications are dropped
		return nil
	}
	marks, err := g.migrated.Marks(ctx)
	if err != nil || marks == g.marks {
		return err
	}
	found, err := g.migrated.Changes(ctx, g.migrated.From)
	if err != nil || !g.mayGiveUp() { // a cutover has begun, which looks itself
		return err
	}
	g.marks = marks
	if err := found.MustEnd(); err != nil {
		stop(err)
		return nil
	}
	if swapped := strings.Join(found.Swapped, "; "); swapped != g.swapped {
		g.swapped = swapped
		if swapped != "" {
			g.c.Logger.Warn("columns are not what they were; migrate ends before the first change that is for the new ones, and the cutover will refuse", "columns", swapped)
		}
	}
	if places := strings.Join(found.Places, "; "); places != g.places {
		g.places = places
		if places != "" {
			g.c.Logger.Warn("tables have another place than they had; the cutover will refuse", "tables", places)
		}
	}
	added := found.Added
	g.live.Set(func(st *Status) { st.NewTables = added })
	if names := list(added); len(added) > 0 && names != g.tables {
		g.tables = names
		g.c.Logger.Warn("the source has got tables that this migration does not follow", "tables", names)
	}
	if len(added) > 0 && g.c.OnNewTable == StopOnNewTable {
		stop(newTables(added))
	}
	return nil
}

// guardBack watches what may end a way back from outside, until ctx ends: what has become of the tables that it brings. Those that are
// new on the new server do not end it: they are told, and a fallback refuses.
func (r *runner) guardBack(ctx context.Context, stop context.CancelCauseFunc) {
	tables, marks, told, places := r.back.tables, "", "", ""
	tick := time.NewTicker(identityInterval * r.c.Heartbeat)
	defer tick.Stop()
	for ; ctx.Err() == nil; wait.Tick(ctx, tick) {
		now, err := tables.Marks(ctx)
		if err != nil || now == marks || r.back.live.Phase() != Following {
			continue
		}
		found, err := tables.Changes(ctx, tables.From)
		if err != nil || r.back.live.Phase() != Following { // a fallback has begun, which looks itself
			continue
		}
		marks = now
		if err := found.MustEnd(); err != nil {
			stop(err)
			return
		}
		r.live.Set(func(st *Status) { st.NewTables = found.Added })
		if names := list(found.Added); names != told && len(found.Added) > 0 {
			r.c.Logger.Warn("the new server has got tables that do not come to the old one; a fallback will refuse, unless --on-new-table ignore leaves them behind", "tables", names)
			told = names
		}
		if now := strings.Join(found.Places, "; "); now != places && now != "" {
			r.c.Logger.Warn("tables of the new server have another place than they had; a fallback will refuse", "tables", now)
			places = now
		}
	}
}

// readers looks for publications FOR ALL TABLES: since the preflight, which tells of them, somebody may have made one.
func (g *guard) readers(ctx context.Context) error {
	var found []string
	for _, end := range []struct {
		link   *session.Link
		server string
	}{{g.migrated.From, "old"}, {g.migrated.To, "new"}} {
		err := end.link.Do(ctx, func(conn *pgx.Conn) error {
			list, err := check.Readers(ctx, conn)
			for _, p := range list {
				found = append(found, p+" on the "+end.server+" server")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if whole := strings.Join(found, ", "); whole != g.whole {
		g.whole = whole
		if whole != "" {
			g.c.Logger.Warn("publications FOR ALL TABLES publish the schema walferry, too: subscribers of PostgreSQL's own that lack its tables stop at what is written there, on the old server from the "+
				"cutover on if it keeps a way back; until cleanup let them have these tables, or replace the publications with ones that list their tables", "publications", whole)
		}
	}
	return nil
}

// giveUp removes everything of the migration from the source.
func (r *runner) giveUp(ctx context.Context, why error) error {
	return wait.Within(ctx, time.Minute, func(ctx context.Context) error {
		if err := r.store.Mine(ctx); err != nil {
			return err
		}
		err := r.ended().RemoveFromSource(ctx)
		return errors.Join(err, r.store.GiveUp(ctx, why.Error()))
	})
}
