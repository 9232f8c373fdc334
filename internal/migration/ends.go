package migration

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cleanup"
	"github.com/walferry/walferry/internal/clients"
	"github.com/walferry/walferry/internal/copying"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/definitions"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/hook"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/initial"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/opening"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/slot"
)

// ends are the two servers of a migration, its record, and what it has on them.
type ends struct {
	c      Config
	name   flow.Name // of the flow between them; their objects are named after it
	target *session.Link
	source *session.Link // nil: not connected to yet
	store  *state.Store
	lock   *state.Lock   // nil: not taken
	rec    *state.Record // as it was read last; nil: there is none
	armed  state.Armed   // what the flow was armed with; zero: it was not

	flow        *flow.Flow
	tables      *identity.Tables
	definitions *definitions.Carrier
	opening     *opening.Target
	fence       cutover.Standing // as it may stand on the source
	clients     *clients.Steering
	away        atomic.Pointer[map[catalog.Name]bool] // tables that have no part in a switch of everything: groups of them were handed over
	live        *status.Live
	shown       *status.Live // what is shown of a switch: in that of the migration
}

// openTarget connects to the target, for DDL too: the source's event triggers come along with the
// schema, and what they do must not decide whether the target opens.
func openTarget(ctx context.Context, c Config) (*ends, error) {
	target, err := session.OpenLink(ctx, session.Config{DSN: c.Target, Application: c.Name}, online.Quiet)
	if err != nil {
		return nil, err
	}
	return &ends{c: c, name: flow.Name{Migration: c.Name}, target: target, store: home(target, c)}, nil
}

// home is where the record of a migration is kept.
func home(target *session.Link, c Config) *state.Store { return state.At(target, c.Name) }

// openSource connects to the source, for DDL too.
func (e *ends) openSource(ctx context.Context) (err error) {
	if e.source, err = session.OpenLink(ctx, session.Config{DSN: e.c.Source, Application: e.c.Name}, online.Quiet); err != nil {
		return err
	}
	e.assemble()
	return nil
}

// assemble makes the values by which the two servers are worked on.
func (e *ends) assemble() {
	from, to := session.End{DSN: e.c.Source, Link: e.source}, session.End{DSN: e.c.Target, Link: e.target}
	e.tables = &identity.Tables{From: e.source, To: e.target, Store: e.store, Selection: e.c.Selection(), Logger: e.c.Logger}
	e.flow = &flow.Flow{
		Name: e.name, From: from, To: to,
		Expect: func(ctx context.Context) (decoder.Identity, error) {
			publications, err := e.tables.Publications(ctx)
			return decoder.Identity{SystemID: e.rec.SystemID, Timeline: e.rec.Timeline, Database: e.rec.Database, Publications: publications}, err
		},
		Heartbeat: e.c.Heartbeat, Logger: e.c.Logger,
	}
	e.live = &status.Live{Logger: e.c.Logger}
	e.live.Follows(e.flow)
	e.shown = e.live
	e.definitions = &definitions.Carrier{
		From: from, To: to, Store: e.store,
		Tables: e.tables.Selected, Brought: e.tables.Brought, Step: e.live.Step, Jobs: e.c.Jobs, Logger: e.c.Logger,
		Reopens: func() bool { return e.armed.Begins != 0 },
	}
	e.opening = &opening.Target{Link: e.target, DSN: e.c.Target, Migration: e.name.String(), Tables: e.tables.Selected, Logger: e.c.Logger}
	e.clients = &clients.Steering{
		Config: e.c.Clients, Name: e.c.Name, Switch: clients.Cutover, From: from, To: to, Store: e.store,
		Phase: func() string { return string(e.shown.Phase()) }, Order: clients.Order{Source: e.c.Source, Target: e.c.Target, Name: e.c.Name, Clients: e.c.Clients}, Logger: e.c.Logger, Times: new(hook.Times),
	}
	e.live.Hooks = e.clients.Times.Read
	e.fence = cutover.Standing{Name: e.name.String(), DSN: e.c.Source, Store: e.store, Sides: e.sides()}
}

// turned returns the same two servers the other way round, for the flow in the other direction. The
// record of that flow is on the server that it goes to, as that of every flow is.
func (e *ends) turned() *ends {
	t := &ends{c: e.c.Turned(), name: e.name.Reverse(), source: e.target, target: e.source, lock: e.lock}
	t.c.Logger = t.name.Sides().Logger(t.c.Logger)
	t.store = state.At(t.target, t.name.String())
	t.assemble()
	t.shown = e.live
	t.clients.Switch, t.clients.Other, t.clients.Order, t.clients.Times = clients.Fallback, e.store, e.clients.Order, e.clients.Times
	return t
}

// sides returns what the servers are called in what people are told.
func (e *ends) sides() sides.Sides {
	switch {
	case e.name.Direction == flow.Back:
		return sides.Back
	case e.c.FallBack != NoFallBack:
		return sides.Forth
	}
	return sides.OneWay
}

// openEnds connects to both, for abort, cleanup and verify. The source must be that of the
// migration that the target knows: nothing is done to another.
func openEnds(ctx context.Context, c Config) (*ends, error) {
	e, err := openTarget(ctx, c)
	if err != nil {
		return nil, err
	}
	if e.rec, err = e.store.Load(ctx); err == nil {
		if err = e.openSource(ctx); err != nil && e.rec != nil && e.rec.Phase == Finished {
			err = sourceGone(err)
		}
	}
	if err == nil && e.rec != nil {
		e.tables.Remember(e.rec.Tables)
		err = checkSource(ctx, c, e.rec)
	}
	if err != nil {
		e.close(ctx)
		return nil, err
	}
	return e, nil
}

// take takes the lock of the migration, retrying for as long as patience.
func (e *ends) take(ctx context.Context, patience time.Duration) (err error) {
	e.lock, err = e.store.Lock(ctx, e.c.Target, patience)
	return err
}

// close releases the lock and closes the connections.
func (e *ends) close(ctx context.Context) {
	if e.lock != nil {
		e.lock.Close(ctx)
	}
	if e.source != nil {
		e.clients.Close()
		e.source.Close()
	}
	e.target.Close()
}

// checkSource returns an error if c.Source is not the source of a migration.
func checkSource(ctx context.Context, c Config, rec *state.Record) error {
	return identity.CheckSource(ctx, session.Config{DSN: c.Source, Application: c.Name}, rec.SystemID, rec.Database)
}

// switched returns the tables that a switch of everything is for.
func (e *ends) switched() []catalog.Table {
	return slices.DeleteFunc(slices.Clone(e.tables.Selected()), e.isAway)
}

// isAway reports whether a table is one of a group that was handed over.
func (e *ends) isAway(t catalog.Table) bool {
	away := e.away.Load()
	return away != nil && (*away)[t.Name]
}

// leaveOut sets which tables are.
func (e *ends) leaveOut(away map[catalog.Name]bool) { e.away.Store(&away) }

// words returns the words of --insert-only about tables.
func (e *ends) words(tables []catalog.Table) *flow.Words {
	return flow.WordsOf(e.flow.Name, e.source, e.target, e.store, tables)
}

// ended returns the migration as one that has ended.
func (e *ends) ended() *cleanup.Ended {
	return &cleanup.Ended{Name: e.name.String(), Source: e.source, Target: e.target, Opening: e.opening, Keys: e.definitions.Pending()}
}

// newCopy returns the copy of the migration's tables, and what is around it.
func (e *ends) newCopy() *initial.Copy {
	rows := &copying.Copy{
		Flow: e.flow, Tables: e.tables.WithRows, Archive: e.definitions.Archive, Jobs: e.c.Jobs, IndexJobs: e.c.IndexJobs, PieceBytes: e.c.PieceBytes,
		Export: e.exportConfig(), Step: e.live.Step,
	}
	if e.definitions.Brought {
		rows.Archive = nil
	}
	return &initial.Copy{
		Config: e.c, Flow: e.flow, Store: e.store, Record: e.rec, Tables: e.tables, Definitions: e.definitions, Opening: e.opening,
		Sequences: e.carrier(), Rows: rows, Guard: e.lock.Guard, Step: e.live.Step,
	}
}

func (e *ends) exportConfig() slot.ExportConfig {
	return slot.ExportConfig{
		Logger: e.c.Logger,
		OnBlocked: func(blockers []slot.Blocker) {
			var names []string
			for _, b := range blockers {
				e.c.Logger.Warn("creating the slot waits for a transaction that writes: " + b.String())
				names = append(names, b.String())
			}
			e.live.Step(fmt.Sprintf("waiting for %d open transactions before the slot can be created: %s", len(blockers), catalog.List(names)))
		},
	}
}
