// Package guard watches, beside a flow that runs, what may end it from outside: the WAL that its slot holds back, what has become of its
// tables, and tables that are new.
package guard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/wait"
)

// interval is how many heartbeats lie between two looks at what is followed.
const interval = 12

// ErrRetained is the cause of the error that gives a migration up so that the source survives.
var ErrRetained = errors.New("the slot held back too much WAL")

// retained gives the migration up.
func retained(bytes, limit int64) error {
	return &fail.Error{
		Kind: fail.Run,
		Problem: fmt.Sprintf("the slot held back %d MB of WAL on the source, more than the %d MB of --max-retained-wal: "+
			"THE MIGRATION IS GIVEN UP so that the source does not run out of space; slot and publication are dropped, the target's data are unfit", bytes>>20, limit>>20),
		Advice: "find out what held it up (`walferry status`, the target's locks, the network), allow more, and start over: `walferry cleanup`, empty the target, `walferry migrate`",
		Err:    ErrRetained,
	}
}

// newTables ends a run because of tables that it cannot follow.
func newTables(tables []string) error {
	return &fail.Error{
		Kind:    fail.Run,
		Problem: "the source has got tables that this migration does not follow: " + catalog.List(tables),
		Advice:  "drop them on the source; or leave them behind with --on-new-table ignore, and move them by a second migration (--name, --include); the slot is kept, and the same command resumes",
	}
}

// Forth is the guard of the flow to the target, from the copy on.
type Forth struct {
	Config    config.Migration
	Tables    *identity.Tables // that are migrated
	Retention *flow.Retention  // of its slot
	Live      *status.Live     // is told of new tables, and what the slot holds back

	tables  string // new ones that were reported last
	places  string // likewise
	swapped string
	whole   string // publications FOR ALL TABLES, likewise
	marks   string // of both catalogues, when all of them was read last
}

// Watch guards until ctx ends.
func (g *Forth) Watch(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(g.Config.Heartbeat)
	defer tick.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		if err := g.slot(ctx, stop); err != nil && ctx.Err() == nil {
			g.Config.Logger.Debug("look at the slot", "error", err)
		}
		if n%interval == 0 {
			if err := g.identity(ctx, stop); err != nil && ctx.Err() == nil {
				g.Config.Logger.Debug("look at what is followed", "error", err)
			}
			if err := g.readers(ctx); err != nil && ctx.Err() == nil {
				g.Config.Logger.Debug("look at who is sent what walferry writes", "error", err)
			}
		}
		wait.Tick(ctx, tick)
	}
}

// slot looks at the WAL that the slot holds back.
func (g *Forth) slot(ctx context.Context, stop context.CancelCauseFunc) error {
	now, ok, err := g.Retention.Look(ctx)
	if err != nil || !ok {
		return err
	}
	g.Live.Retains(now)
	if g.Config.MaxRetainedWAL > 0 && now.Bytes >= g.Config.MaxRetainedWAL && g.mayGiveUp() {
		stop(retained(now.Bytes, g.Config.MaxRetainedWAL))
	}
	return nil
}

// mayGiveUp reports whether no cutover is in progress, which takes seconds.
func (g *Forth) mayGiveUp() bool {
	switch g.Live.Phase() {
	case state.Prepared, state.Copying, state.Indexing, state.Following:
		return true
	}
	return false
}

// identity looks at what has become of the tables that are followed, and for new ones.
func (g *Forth) identity(ctx context.Context, stop context.CancelCauseFunc) error {
	if !g.mayGiveUp() || g.Config.Until == config.UntilCopied && g.Live.Phase() == state.Indexing { // then the publications are dropped
		return nil
	}
	marks, err := g.Tables.Marks(ctx)
	if err != nil || marks == g.marks {
		return err
	}
	found, err := g.Tables.Changes(ctx, g.Tables.From)
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
			g.Config.Logger.Warn("columns are not what they were; migrate ends before the first change that is for the new ones, and the cutover will refuse", "columns", swapped)
		}
	}
	if places := strings.Join(found.Places, "; "); places != g.places {
		g.places = places
		if places != "" {
			g.Config.Logger.Warn("tables have another place than they had; the cutover will refuse", "tables", places)
		}
	}
	added := found.Added
	g.Live.Set(func(st *status.Status) { st.NewTables = added })
	if names := catalog.List(added); len(added) > 0 && names != g.tables {
		g.tables = names
		g.Config.Logger.Warn("the source has got tables that this migration does not follow", "tables", names)
	}
	if len(added) > 0 && g.Config.OnNewTable == config.StopOnNewTable {
		stop(newTables(added))
	}
	return nil
}

// readers looks for publications FOR ALL TABLES: since the preflight, which tells of them, somebody may have made one.
func (g *Forth) readers(ctx context.Context) error {
	var found []string
	for _, end := range []struct {
		link   *session.Link
		server string
	}{{g.Tables.From, "old"}, {g.Tables.To, "new"}} {
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
			g.Config.Logger.Warn("publications FOR ALL TABLES publish the schema walferry, too: subscribers of PostgreSQL's own that lack its tables stop at what is written there, on the old server from the "+
				"cutover on if it keeps a way back; until cleanup let them have these tables, or replace the publications with ones that list their tables", "publications", whole)
		}
	}
	return nil
}
