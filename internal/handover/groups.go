package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Side is one direction of a migration.
type Side struct {
	Name     flow.Name
	From, To session.End
	Store    *state.Store // of the flow's record, on To
	Tables   *identity.Tables

	// Sequences returns what carries those of everything over. What is known of them is in one place, the flow's record, whoever
	// owns them.
	Sequences func() *cutover.Carrier
}

// standing is a fence of the side as it may stand on From.
func (s *Side) standing(name string, store *state.Store) cutover.Standing {
	return cutover.Standing{Name: name, DSN: s.From.DSN, Store: store, Sides: s.Name.Sides()}
}

// Groups are those of a migration that this process runs.
type Groups struct {
	Forth, Back *Side
	Tool        string // version, for records
	Logger      *slog.Logger

	Entering *Group // the first one, which is handed over when both flows run
	Dividing bool   // a part of a whole is switched back when both flows run
	Awaited  int64  // the request that is carried out when both flows run; 0: none

	back   running
	mode   atomic.Pointer[Mode]
	stores map[string]*state.Store
}

// Load reads which there are.
func (g *Groups) Load(ctx context.Context) error {
	m, err := Load(ctx, g.Forth.Store)
	if err == nil {
		g.mode.Store(m)
	}
	return err
}

// Forget ends the wait for a request that both flows were made for, and returns which that was. Settle, or Entire, says what is to become of them.
func (g *Groups) Forget() (request int64) {
	request = g.Awaited
	g.Entering, g.Dividing, g.Awaited = nil, false, 0
	return request
}

// LastLooks is how many looks in a row find nobody who asks for what both flows were made for.
const LastLooks = 20

// Abandon answers the request that both flows were made for, and reports that there was one: its asker has gone, or another switch comes first. The
// flows have to begin again then: a group that is about to be handed over is no part of a switch of the rest.
func (g *Groups) Abandon(ctx context.Context, box state.Mailbox) bool {
	if g.Awaited == 0 {
		return false
	}
	why := state.ErrWithdrawn
	a := state.Answer{Gate: true, Error: why.Problem + ": everything is as before", Hint: why.Advice}
	if err := box.Answer(ctx, g.Forget(), false, a); err != nil {
		g.Logger.Debug("answer who has gone", "error", err)
	}
	return true
}

// ErrUnsettled refuses a switch while Settle is to be called again.
var ErrUnsettled = &fail.Error{Kind: fail.Gate, Problem: "who owns a group of tables is not certain yet, after a switch of it that has failed", Advice: "migrate keeps trying, and has logged why: ask again"}

// Mode returns what was read or written last; nil: there are no groups.
func (g *Groups) Mode() *Mode { return g.mode.Load() }

// save keeps a mode, and then is in it.
func (g *Groups) save(ctx context.Context, m *Mode) error {
	if err := m.Save(ctx, g.Forth.Store); err != nil {
		return err
	}
	g.mode.Store(m)
	return nil
}

// store returns that of a group's record in a direction.
func (g *Groups) store(group Group, s *Side) *state.Store {
	name := group.Name(s.Name)
	if g.stores == nil {
		g.stores = map[string]*state.Store{}
	}
	if g.stores[name] == nil {
		g.stores[name] = state.At(s.To.Link, name)
	}
	return g.stores[name]
}

// phase reads that of a group's record; empty: there is none.
func (g *Groups) phase(ctx context.Context, group Group, s *Side) (*state.Record, state.Phase, error) {
	r, err := g.store(group, s).Load(ctx)
	if err != nil || r == nil {
		return nil, "", err
	}
	return r, r.Phase, nil
}

// record makes a group's record, or takes over the one that there is.
func (g *Groups) record(ctx context.Context, group Group, s *Side) (*state.Store, error) {
	store := g.store(group, s)
	r, err := store.Load(ctx)
	if err != nil {
		return nil, err
	}
	if r == nil {
		whole, err := s.Store.Load(ctx)
		if err == nil && whole == nil {
			err = fmt.Errorf("the record of the flow %s is gone", s.Name)
		}
		if err != nil {
			return nil, err
		}
		r = &state.Record{
			ToolVersion: g.Tool, SystemID: whole.SystemID, Timeline: whole.Timeline, Database: whole.Database,
			Slot: whole.Slot, Options: whole.Options,
		}
		if err := store.Begin(ctx, r); err != nil {
			return nil, err
		}
		r.Phase = state.New
	}
	if store.Run() == "" || r.Phase == state.New {
		if err := store.Take(ctx); err != nil {
			return nil, err
		}
	}
	if r.Phase == state.New {
		if err := store.SetPhase(ctx, state.Following); err != nil {
			return nil, err
		}
	}
	return store, nil
}

// Add records another one.
func (g *Groups) Add(ctx context.Context, tables []catalog.Name, loose []string) (Group, error) {
	m := *g.Mode()
	group := m.Add(tables, loose)
	return group, g.save(ctx, &m)
}

// fence returns one of a side, on tables of From.
func (g *Groups) fence(ctx context.Context, conn *pgx.Conn, name, run string, tables []catalog.Table, waits online.Waits) (cutover.Fence, error) {
	f, _, err := cutover.NewFence(ctx, conn, name, tables)
	f.Run, f.Pass, f.Waits = run, g.Mode().Pass, waits
	return f, err
}

// on runs something with a connection for DDL to the server that a side comes from.
func (s *Side) on(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := online.Open(ctx, session.Config{DSN: s.From.DSN, Application: s.Name.String() + " fence"})
	if err != nil {
		return err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }() //nolint:errcheck // nothing is in progress on it
	return do(conn)
}

// FenceAll makes the new server refuse writes to all tables, but those of the applier, unless it does so already.
func (g *Groups) FenceAll(ctx context.Context, life time.Duration, waits online.Waits) error {
	b := g.Back
	var all []catalog.Table
	away := g.settled()
	for _, t := range b.Tables.Selected() {
		if !away[t.Name] {
			all = append(all, t)
		}
	}
	return b.on(ctx, func(conn *pgx.Conn) error {
		f, err := g.fence(ctx, conn, b.Name.String(), b.Store.Run(), all, waits)
		if err == nil {
			err = f.Stand(ctx, conn, life)
		}
		if err != nil {
			return fmt.Errorf("fence the new server for what the old one owns: %w", err)
		}
		return nil
	})
}

// settled are the tables of groups that have a fence of their own on the new server.
func (g *Groups) settled() map[catalog.Name]bool {
	m := *g.Mode()
	if n := len(m.Groups); n > 0 {
		m.Groups = m.Groups[:n-1] // the last one is about to get it
	}
	return m.Away()
}

// Part gives a group that is to change its owner a fence of its own on the server that a side comes from, and that does not own it: it stands there instead of
// the one that the group was under.
func (g *Groups) Part(ctx context.Context, group Group, s *Side, waits online.Waits) error {
	if err := g.Forth.Store.Mine(ctx); err != nil {
		return err
	}
	store, err := g.record(ctx, group, s)
	if err != nil {
		return err
	}
	return s.on(ctx, func(conn *pgx.Conn) error {
		f, err := g.fence(ctx, conn, group.Name(s.Name), store.Run(), group.Of(s.Tables.Selected()), waits)
		if err != nil {
			return err
		}
		return f.TakeOver(ctx, conn)
	})
}

// Dissolve makes a group that the old server owns a part of the rest again.
func (g *Groups) Dissolve(ctx context.Context, group Group) error {
	f, b := g.Forth, g.Back
	say := func(text string) { g.Logger.Warn(text) }
	forth, back := g.store(group, f), g.store(group, b)
	if r, _, err := g.phase(ctx, group, f); err != nil {
		return err
	} else if r != nil { // first of all: from here on nothing says that the new server owns it
		if _, err := g.record(ctx, group, f); err != nil {
			return err
		}
		if err := forth.SetPhase(ctx, state.Following); err != nil {
			return err
		}
	}
	if err := f.standing(group.Name(f.Name), forth).TakeDown(ctx, "", func() {}, say); err != nil {
		return err
	}
	err := b.on(ctx, func(conn *pgx.Conn) error {
		state, err := cutover.Look(ctx, conn, b.Name.String())
		if err != nil {
			return err
		}
		if state.Sealed {
			rest, err := g.fence(ctx, conn, b.Name.String(), b.Store.Run(), group.Of(b.Tables.Selected()), nil)
			if err == nil {
				err = rest.TakeOver(ctx, conn)
			}
			if err != nil {
				return err
			}
		}
		return g.remove(ctx, conn, group.Name(b.Name))
	})
	if err != nil {
		return err
	}
	if err := errors.Join(back.Forget(ctx), forth.Forget(ctx)); err != nil {
		return err
	}
	return g.save(ctx, g.Mode().Without(group.Number))
}

// remove removes what is left of a fence that stands on nothing any more.
func (g *Groups) remove(ctx context.Context, conn *pgx.Conn, name string) error {
	left, err := cutover.Remove(ctx, conn, name)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("triggers of the fence %s are left %s", name, cutover.ListLeft(left))
	}
	return err
}

// Leave ends the time of groups: none is left. retire removes the flow back. stands says that the fence of all tables stays on the new server, and with it the
// record of that flow: nobody who was there a moment ago must write there now.
func (g *Groups) Leave(ctx context.Context, retire func(ctx context.Context, stands bool) error) error {
	b := g.Back
	var fence cutover.State
	err := b.From.Link.Do(ctx, func(conn *pgx.Conn) (err error) {
		fence, err = cutover.Look(ctx, conn, b.Name.String())
		return err
	})
	if err == nil && !fence.Sealed && fence.Triggers > 0 {
		err = b.standing(b.Name.String(), b.Store).TakeDown(ctx, "", func() {}, func(text string) { g.Logger.Warn(text) })
	}
	if err == nil {
		err = retire(ctx, fence.Sealed)
	}
	if err != nil {
		return err
	}
	return g.save(ctx, nil)
}

// Merge makes all groups parts of a whole that the new server owns: on the old one the fence of all tables stands instead of theirs.
func (g *Groups) Merge(ctx context.Context) error {
	f := g.Forth
	g.Dividing = false
	if err := g.settleSplit(ctx, nil); err != nil {
		return err
	}
	for len(g.Mode().Groups) > 0 {
		group := g.Mode().Groups[0]
		err := f.on(ctx, func(conn *pgx.Conn) error {
			all, err := g.fence(ctx, conn, f.Name.String(), f.Store.Run(), group.Of(f.Tables.Selected()), nil)
			if err == nil {
				err = all.TakeOver(ctx, conn)
			}
			if err == nil {
				err = g.remove(ctx, conn, group.Name(f.Name))
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := errors.Join(g.store(group, g.Back).Forget(ctx), g.store(group, f).Forget(ctx)); err != nil {
			return err
		}
		if err := g.save(ctx, g.Mode().Without(group.Number)); err != nil {
			return err
		}
	}
	return g.save(ctx, nil)
}

// Begins is the way back of the switch of the rest: the flow back runs, from the position that it began at.
func (g *Groups) Begins() cutover.WayBack {
	away := g.Mode().Away()
	return runningBack{g.Forth.To.Link, g.Back.Sequences(), g.Back.words(func(t catalog.Name) bool { return !away[t] })}
}
