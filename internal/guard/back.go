package guard

import (
	"context"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/wait"
)

// Back is the guard of a way back.
type Back struct {
	Config config.Migration
	Tables *identity.Tables   // that it brings
	Phase  func() state.Phase // of the way back
	Live   *status.Live       // of the migration; is told of new tables
}

// Watch watches what may end a way back from outside, until ctx ends: what has become of the tables that it brings. Those that are
// new on the new server do not end it: they are told, and a fallback refuses.
func (g *Back) Watch(ctx context.Context, stop context.CancelCauseFunc) {
	tables, marks, told, places := g.Tables, "", "", ""
	tick := time.NewTicker(interval * g.Config.Heartbeat)
	defer tick.Stop()
	for ; ctx.Err() == nil; wait.Tick(ctx, tick) {
		now, err := tables.Marks(ctx)
		if err != nil || now == marks || g.Phase() != state.Following {
			continue
		}
		found, err := tables.Changes(ctx, tables.From)
		if err != nil || g.Phase() != state.Following { // a fallback has begun, which looks itself
			continue
		}
		marks = now
		if err := found.MustEnd(); err != nil {
			stop(err)
			return
		}
		g.Live.Set(func(st *status.Status) { st.NewTables = found.Added })
		if names := catalog.List(found.Added); names != told && len(found.Added) > 0 {
			g.Config.Logger.Warn("the new server has got tables that do not come to the old one; a fallback will refuse, unless --on-new-table ignore leaves them behind", "tables", names)
			told = names
		}
		if now := strings.Join(found.Places, "; "); now != places && now != "" {
			g.Config.Logger.Warn("tables of the new server have another place than they had; a fallback will refuse", "tables", now)
			places = now
		}
	}
}
