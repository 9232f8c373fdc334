package migration

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wayback"
	"github.com/walferry/walferry/slot"
)

// newWayBack returns the way back of a switch in the direction of e.
func (e *ends) newWayBack(other *ends) *wayback.Way {
	disarm := other.unpublish
	if other.name.Direction == flow.Back {
		disarm = other.retire
	}
	return &wayback.Way{
		Flow: other.flow, Store: other.store, Tables: other.tables, Switched: e.tables, Sequences: other.carrier(),
		Export: other.exportConfig(), Options: other.c.Options(), Tool: other.c.ToolVersion,
		Pass: rand.Text(), Stands: other.switchedBefore(),
		Gate: func(ctx context.Context, tables, inserts []catalog.Name) error {
			return check.Arming{
				Name: other.name.String(), From: other.c.Source, To: other.c.Target, Back: other.name.Direction == flow.Back,
				Tables: tables, Inserts: inserts, MaxRetainedWAL: other.c.MaxRetainedWALTarget,
			}.Gate(ctx)
		},
		Recorded: func(ctx context.Context) error {
			if other.name.Direction == flow.Back { // the other one's record is that of the migration, whose phase is not for this
				if err := other.store.SetPhase(ctx, New); err != nil {
					return err
				}
			}
			return other.recall(ctx)
		},
		Retire: func(ctx context.Context) error {
			if err := e.store.Mine(ctx); err != nil { // what there is may be that of the run that has taken over
				return err
			}
			return disarm(ctx)
		},
		Logger: other.c.Logger,
	}
}

// recall reads the record of a flow that was armed, or that has been followed.
func (e *ends) recall(ctx context.Context) (err error) {
	if e.rec, err = e.store.Load(ctx); err != nil || e.rec == nil {
		return err
	}
	e.live.Moved(e.rec.Phase)
	e.tables.Remember(e.rec.Tables)
	e.armed = state.Armed{}
	_, err = e.store.Values().Get(ctx, state.Arming, &e.armed)
	e.tables.Beside(e.armed.Beside)
	e.flow.Pass = e.armed.Pass
	return err
}

// switchedBefore reports whether a switch in the direction of e has left its fence on the source of e.
func (e *ends) switchedBefore() bool {
	return e.rec != nil && (e.live.Phase() == Switched || e.armed.Stands)
}

// putAsidePatience is how long a reader of the old server, who holds a lock, can keep whoever asks the run for something from an answer.
const putAsidePatience = 30 * time.Second

// putAside puts aside what would act on what is applied: triggers, rules, and foreign keys.
func (e *ends) putAside(ctx context.Context) error {
	if e.name.Direction == flow.Back {
		within, cancel := context.WithTimeoutCause(ctx, putAsidePatience, errors.New("that could not be done for half a minute"))
		defer cancel()
		ctx = within
	}
	_, err := e.opening.Hold(ctx)
	if err := errors.Join(err, e.definitions.DropKeys(ctx)); err != nil || e.name.Direction == flow.Forth {
		return err
	}
	aside, err := wayback.Aside(ctx, e.target, e.store)
	if aside > 0 {
		e.c.Logger.Info("triggers, rules and foreign keys of the old server are put aside while it follows; a fallback, finish and cleanup put them back. "+
			"If it is ever un-fenced by hand, this has what puts them back, to be run there", "count", aside, "sql", wayback.PutBackSQL(e.name.String()))
	}
	return err
}

// wasOpened reports whether a switch has opened the target of e.
func (e *ends) wasOpened() bool { return e.switchedBefore() || e.armed.Begins != 0 }

// validateRest continues what the opening of the target of e has left: to validate its foreign keys. The run that has opened it does
// that itself, unless it dies.
func (e *ends) validateRest(ctx context.Context) {
	if err := e.definitions.Pending().Validate(ctx, func(text string) { e.c.Logger.Info(text) }); err != nil && ctx.Err() == nil {
		e.c.Logger.Warn("foreign keys of the server that is the database are not validated", "reason", err)
	}
}

// retire removes what a flow had that is not followed any more, or not yet: an attempt to arm it may have left that.
// The fence of a switch in its direction stays.
func (e *ends) retire(ctx context.Context) error {
	if err := e.recall(ctx); err != nil {
		return err
	}
	if err := e.flow.Disarm(ctx); err != nil {
		return err
	}
	if e.rec == nil {
		return nil
	}
	if !e.switchedBefore() {
		e.rec = nil
		return e.store.Forget(ctx)
	}
	if e.store.Run() == "" { // it was another process's
		if err := e.store.Take(ctx); err != nil {
			return err
		}
	}
	// A switch that goes on without a way back must not be taken for one that has it.
	e.armed.Begins = 0
	if err := e.store.PutArmed(ctx, e.armed); err != nil || e.live.Phase() == Switched {
		return err
	}
	return e.advance(ctx, Switched)
}

// switchedOver is run when the target is the database, and what is written there flows back. It returns
// the next phase. What keeps that from the old server interrupts the way back, and nothing else: it is tried again every minute.
func (r *runner) switchedOver(ctx context.Context) (Phase, error) {
	r.clients.Settle(ctx, true) //nolint:errcheck // it has said so
	r.wal = wayback.NewBudget(r.back.flow, r.c.MaxRetainedWALTarget, r.live.Retains, r.c.Logger)
	for {
		next, err := r.followBack(ctx)
		if err == nil {
			r.live.Set(func(st *Status) { st.Back = nil })
		}
		if err == nil || ctx.Err() != nil || errors.Is(err, errFinished) || errors.Is(err, state.ErrOvertaken) || !r.lock.Held(ctx) {
			return next, err
		}
		var budget *wayback.BudgetError
		now := r.condition.After(err)
		if now.State == state.BackLost {
			r.live.Show(ctx) // first: that its slot is gone is not why
			r.wal.Drop(ctx)
		}
		repair := wayback.Repair{Guard: r.lock.Guard, Mailbox: r.store.Mailbox(), Budget: r.wal, Heartbeat: r.c.Heartbeat, Logger: r.c.Logger}
		switch err := repair.Await(ctx, now); {
		case errors.Is(err, wayback.ErrGivenUp):
			r.gaveUp = true
			return Finished, r.endWayBack(ctx, r.back)
		case errors.As(err, &budget):
			r.condition.After(err)
		case err != nil:
			return "", err
		}
	}
}

// followBack is one attempt of switchedOver.
func (r *runner) followBack(ctx context.Context) (Phase, error) {
	b := r.back
	if err := b.recall(ctx); err != nil {
		return "", err
	}
	if b.rec == nil || b.armed.Begins == 0 {
		return "", &fail.Error{Kind: fail.Run, Problem: "the way back is gone from the old server", Advice: "`walferry finish` ends the migration without it"}
	}
	if err := b.store.Take(ctx); err != nil {
		return "", err
	}
	if err := r.mergeGroups(ctx); err != nil {
		return "", err
	}
	switch b.live.Phase() {
	case New: // armed, and begun since
		if err := b.advance(ctx, Following); err != nil {
			return "", err
		}
	case Fenced, Drained:
		if err := b.tables.Select(ctx, true); err != nil {
			return "", err
		}
		next, err := r.afterInterruptedCutover(ctx, b, r.ends)
		if err == nil {
			err = b.advance(ctx, next)
		}
		if err != nil {
			return "", err
		}
	}
	if b.live.Phase() == Following {
		if err := r.ends.unpublish(ctx); err != nil {
			return "", err
		}
		if err := b.tables.Select(ctx, true); err != nil {
			return "", err
		}
		err := b.sides().Error(r.follow(ctx, b, r.ends))
		if errors.Is(err, errGroups) { // a part is to be switched back
			b.armed.Stands = true
			return Following, cmp.Or(b.store.PutArmed(ctx, b.armed), r.advance(ctx, Following))
		}
		if !errors.Is(err, errFinished) {
			return "", err
		}
	}
	switch b.live.Phase() {
	case Switched: // the old server is the database again
		b.clients.Settle(ctx, true) //nolint:errcheck // it has said so
		return Following, r.recall(ctx)
	case Finished: // the way back was given up
		r.gaveUp = true
		return Finished, r.endWayBack(ctx, b)
	}
	return "", errFinished
}

// endWayBack gives the way back up that b are the ends of.
func (e *ends) endWayBack(ctx context.Context, b *ends) error {
	end := wayback.End{Flow: b.flow, Store: b.store, Opening: b.opening, Keys: b.definitions.Pending(), Logger: e.c.Logger}
	return end.GiveUp(ctx, func(ctx context.Context) error { return e.advance(ctx, Finished) })
}

// unpublish removes the slot and the publications of a flow that is not followed any more: the slot would hold WAL back.
func (e *ends) unpublish(ctx context.Context) error {
	names := e.name.Source()
	return e.source.Do(ctx, func(conn *pgx.Conn) error {
		if err := slot.Drop(ctx, conn, names.Slot); err != nil {
			return err
		}
		for _, p := range []string{names.Publication, names.Inserts} {
			if err := slot.DropPublication(ctx, conn, p); err != nil {
				return err
			}
		}
		return nil
	})
}
