package migration

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
)

// FallBackMode says whether a cutover keeps a way back: a flow from the new server to the old one.
type FallBackMode string

// The answers.
const (
	NoFallBack      FallBackMode = "off"     // the zero value's meaning: there is no way back
	FallBackAuto    FallBackMode = "auto"    // there is one where it can be had; otherwise that is said
	FallBackRequire FallBackMode = "require" // a switch without one is refused
)

// wayBack is the flow against the direction of a switch, which arms it; see cutover.WayBack. While it is armed it is read, and
// nothing of it is applied.
type wayBack struct {
	e      *ends            // of that flow
	tables *identity.Tables // of the switch
	pass   string
	stands bool // the fence of an earlier switch in its direction

	running *flow.Running
	end     context.CancelFunc
	ended   chan struct{}
}

// newWayBack returns the way back of a switch in the direction of e.
func (e *ends) newWayBack(other *ends) *wayBack {
	return &wayBack{e: other, tables: e.tables, pass: rand.Text()}
}

// Arm implements cutover.WayBack.
func (w *wayBack) Arm(ctx context.Context, tell func(string)) error {
	e := w.e
	may, err := session.MaySetReplicaRole(ctx, e.target)
	if err != nil {
		return err
	}
	if !may {
		return &fail.Error{Kind: fail.Gate, Problem: "the role may not set session_replication_role on the server to go back to: its triggers and foreign keys would act on what comes back", Advice: "there, GRANT SET ON PARAMETER session_replication_role (from 15 on), or connect as a superuser (rds_superuser)"}
	}
	was := w.tables.Remembered()
	e.tables.Remember(was) // the same ones, as the server has them that they are to come from
	if err := e.tables.Select(ctx, true); err != nil {
		return err
	}
	now := map[catalog.Name]bool{}
	for _, t := range e.tables.Selected() {
		now[t.Name] = true
	}
	insertOnly := map[catalog.Name]bool{}
	for i := range was {
		insertOnly[was[i].Name] = was[i].InsertOnly
		if !now[was[i].Name] {
			return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("table %s is not on the server that is to be opened", was[i].Name), Advice: "make it there"}
		}
	}
	states, err := e.tables.Describe(ctx, nil)
	if err != nil {
		return err
	}
	for i := range states {
		states[i].InsertOnly = insertOnly[states[i].Name]
	}
	if only := state.InsertOnly(states); len(only) > 0 {
		err := e.source.Do(ctx, func(conn *pgx.Conn) error { return e.words(only).Watch(ctx, conn) })
		if err != nil {
			return err
		}
	}
	p := flow.Published{}
	for i := range states {
		switch s := &states[i]; {
		case s.Kind != "r":
		case s.InsertOnly:
			p.Inserts = append(p.Inserts, s.Name)
		default:
			p.Tables = append(p.Tables, s.Name)
		}
	}
	c := e.exportConfig()
	c.OnBlocked = func(blockers []slot.Blocker) {
		for _, b := range blockers {
			tell("the way back waits for a transaction that writes to the server to be opened: " + b.String())
		}
	}
	armed, err := e.flow.Arm(ctx, p, c)
	if err != nil {
		return err
	}
	record := &state.Record{
		ToolVersion: e.c.ToolVersion, SystemID: armed.Identity.SystemID, Timeline: armed.Identity.Timeline, Database: armed.Identity.Database,
		Slot: armed.Slot, ConsistentPoint: armed.ConsistentPoint, Tables: states, Options: e.c.options(),
	}
	w.stands = e.switchedBefore()
	if err := e.store.Arm(ctx, record, armed.Identity.Publications, state.Armed{Pass: w.pass, Stands: w.stands}); err != nil {
		return err
	}
	if e.name.Direction == flow.Back { // the other one's record is that of the migration, whose phase is not for this
		if err := e.store.SetPhase(ctx, New); err != nil {
			return err
		}
	}
	e.tables.Remember(states)
	if err := e.recall(ctx); err != nil {
		return err
	}
	if err := e.carrier().Remember(ctx); err != nil {
		return err
	}
	return w.read(ctx)
}

// read begins to read the flow, and returns when a beat has come through it.
func (w *wayBack) read(ctx context.Context) (err error) {
	if w.running, err = w.e.flow.Start(ctx, flow.Followed{Originals: flow.OriginalsOf(w.e.tables.Remembered()), Start: applier.NotOpen}); err != nil {
		return err
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	w.end, w.ended = end, make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		defer close(w.ended)
		failed <- w.running.Run(running)
		w.running.Close(running)
	}()
	canary := make(chan error, 1)
	asking, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, err := w.running.Canary(asking)
		canary <- err
	}()
	select {
	case err = <-canary:
		return err
	case err = <-failed:
		return fmt.Errorf("read the way back: %w", err)
	}
}

// stop ends the reading.
func (w *wayBack) stop() {
	if w.end != nil {
		w.end()
		<-w.ended
		w.end = nil
	}
}

// Begin implements cutover.WayBack. It ends the reading: what is committed from the position on is for the run that follows
// it, when what would act on applied rows is held.
func (w *wayBack) Begin(ctx context.Context) (position decoder.LSN, err error) {
	if err := w.e.source.Row(ctx, `select pg_current_wal_insert_lsn()::text`, nil, &position); err != nil {
		return 0, fmt.Errorf("read the position: %w", err)
	}
	if _, err := w.running.Canary(ctx); err != nil { // what committed before has been seen then
		return 0, err
	}
	if c := w.running.LeftOut(); c.First != nil && c.First.LSN < position { // what is from after it comes over
		return 0, &fail.Error{
			Kind:    fail.Gate,
			Problem: fmt.Sprintf("somebody has written to the server that is to be opened: %s", c.First),
			Advice:  "find out who writes there already, and undo what was written; `walferry verify` names the rows",
		}
	}
	w.stop()
	return position, w.e.store.PutArmed(ctx, state.Armed{Begins: position, Pass: w.pass, Stands: w.stands})
}

// Disarm implements cutover.WayBack.
func (w *wayBack) Disarm(ctx context.Context) {
	w.stop()
	disarm := w.e.unpublish
	if w.e.name.Direction == flow.Back {
		disarm = w.e.retire
	}
	if err := disarm(ctx); err != nil {
		w.e.c.Logger.Warn("what the way back has had is left until the next run of migrate, or cleanup", "reason", err)
	}
}

// recall reads the record of a flow that was armed, or that has been followed.
func (e *ends) recall(ctx context.Context) (err error) {
	if e.rec, err = e.store.Load(ctx); err != nil || e.rec == nil {
		return err
	}
	e.live.moved(e.rec.Phase)
	e.tables.Remember(e.rec.Tables)
	e.armed = state.Armed{}
	_, err = e.store.Values().Get(ctx, state.Arming, &e.armed)
	e.flow.Pass = e.armed.Pass
	return err
}

// switchedBefore reports whether a switch in the direction of e has left its fence on the source of e.
func (e *ends) switchedBefore() bool {
	return e.rec != nil && (e.live.phase() == Switched || e.armed.Stands)
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
	if err := e.store.PutArmed(ctx, e.armed); err != nil || e.live.phase() == Switched {
		return err
	}
	return e.advance(ctx, Switched)
}

// switchedOver is run when the target is the database, and what is written there flows back. It returns
// the next phase. What keeps that from the old server interrupts the way back, and nothing else: it is tried again every minute.
func (r *runner) switchedOver(ctx context.Context) (Phase, error) {
	defer r.live.set(func(st *Status) { st.WayBack = nil })
	for {
		next, err := r.followBack(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, errFinished) || errors.Is(err, state.ErrOvertaken) || !r.lock.Held(ctx) {
			return next, err
		}
		now := state.WayBack{State: state.BackInterrupted, Since: time.Now(), Reason: err.Error()}
		if lostForGood(err) {
			now.State = state.BackLost
		}
		r.live.set(func(st *Status) {
			if was := st.WayBack; was != nil && was.State == now.State {
				now.Since = was.Since
			}
			st.WayBack = &now
		})
		r.c.Logger.Error("the way back is "+string(now.State)+"; the new server is not affected", "reason", err, "do", fail.Hint(err))
		var budget *budgetError
		switch err := r.awaitRepair(ctx, now); {
		case errors.Is(err, errFinished):
			return Finished, r.endWayBack(ctx)
		case errors.As(err, &budget):
			r.c.Logger.Error("the way back is lost; the new server is not affected", "reason", err)
		case err != nil:
			return "", err
		}
	}
}

// budgetError says that the slot of the way back holds more WAL back on the new server than it may.
type budgetError struct{ retained, limit int64 }

func (e *budgetError) Error() string {
	return fmt.Sprintf("the way back held back %d MB of WAL on the new server, more than the %d MB of --max-retained-wal-target: it was given up", e.retained>>20, e.limit>>20)
}

// lostForGood reports whether changes will never come that are missing on the old server.
func lostForGood(err error) bool {
	var unusable *slot.Error
	var budget *budgetError
	var altered *slot.PublicationError
	return errors.As(err, &budget) || errors.As(err, &altered) && !altered.Renamed || errors.As(err, &unusable) && (unusable.Reason == slot.Missing || unusable.Reason == slot.Lost || unusable.Reason == slot.Ahead)
}

// awaitRepair returns after a minute, in which it answers who asks. errFinished: the way back is to be given up.
func (r *runner) awaitRepair(ctx context.Context, back state.WayBack) error {
	guarded, stop := context.WithCancelCause(ctx)
	var guard sync.WaitGroup
	defer guard.Wait() // two would take the lock's connection from each other
	defer stop(nil)
	guard.Go(func() { r.lock.Guard(guarded, stop) })
	retention := r.back.flow.Retention(r.c.MaxRetainedWALTarget)
	began := time.Now()
	for n := 0; time.Since(began) < time.Minute; n++ {
		if err := wait.Sleep(guarded, 200*time.Millisecond); err != nil {
			return context.Cause(guarded)
		}
		if n%25 == 0 && back.State == state.BackInterrupted {
			if err := r.overBudget(guarded, retention); err != nil {
				r.dropForBudget(ctx)
				return err
			}
		}
		q, err := r.store.Mailbox().Next(guarded, "")
		if err != nil || q == nil {
			continue
		}
		a := state.Answer{Gate: true, Error: fmt.Sprintf("the way back is %s since %s: %s", back.State, back.Since.UTC().Format(time.DateTime), back.Reason)}
		a.Hint = "repair that on the old server: it is tried again every minute; or give the way back up: `walferry finish`"
		if back.State == state.BackLost {
			a.Hint = "`walferry finish` ends the migration: the new server has every row, the old one is as of before that"
		}
		finish := q.Kind == "finish"
		if finish {
			a = state.Answer{}
		}
		if err := wait.Within(ctx, 10*time.Second, func(ctx context.Context) error { return r.store.Mailbox().Answer(ctx, q.ID, finish, a) }); err != nil {
			r.c.Logger.Error("answer "+q.Kind, "error", err)
		}
		if finish {
			return errFinished
		}
	}
	return nil
}

// watchBudget gives the way back up where its slot holds more WAL back on the new server than that can have.
func (r *runner) watchBudget(ctx context.Context, stop context.CancelCauseFunc) {
	retention := r.back.flow.Retention(r.c.MaxRetainedWALTarget)
	tick := time.NewTicker(r.c.Heartbeat)
	defer tick.Stop()
	for ; ctx.Err() == nil; wait.Tick(ctx, tick) {
		if err := r.overBudget(ctx, retention); err != nil {
			stop(err) // before the stream finds that its slot is gone
			r.dropForBudget(ctx)
			return
		}
	}
}

// overBudget returns an *budgetError if the slot of the way back holds too much.
func (r *runner) overBudget(ctx context.Context, retention *flow.Retention) error {
	now, ok, err := retention.Look(ctx)
	if err != nil || !ok || r.c.MaxRetainedWALTarget <= 0 || now.Bytes < r.c.MaxRetainedWALTarget {
		return nil //nolint:nilerr // the next look is soon
	}
	return &budgetError{now.Bytes, r.c.MaxRetainedWALTarget}
}

// dropForBudget drops the slot, for which the new server must not suffer.
func (r *runner) dropForBudget(ctx context.Context) {
	if err := wait.Within(ctx, time.Minute, func(ctx context.Context) error {
		return r.back.source.Do(ctx, func(conn *pgx.Conn) error { return slot.Drop(ctx, conn, r.back.name.Source().Slot) })
	}); err != nil {
		r.c.Logger.Error("drop the slot of the way back, which holds back too much WAL on the new server", "error", err)
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
	switch b.live.phase() {
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
	if b.live.phase() == Following {
		if err := r.ends.unpublish(ctx); err != nil {
			return "", err
		}
		if err := b.tables.Select(ctx, true); err != nil {
			return "", err
		}
		err := r.follow(ctx, b, r.ends)
		if !errors.Is(err, errFinished) {
			return "", err
		}
	}
	switch b.live.phase() {
	case Switched: // the old server is the database again
		return Following, r.recall(ctx)
	case Finished: // the way back was given up
		return Finished, r.endWayBack(ctx)
	}
	return "", errFinished
}

// endWayBack gives the way back up. The target has nothing of it any more; the old server may be gone.
func (r *runner) endWayBack(ctx context.Context) error {
	b := r.back
	if err := b.source.Do(ctx, func(conn *pgx.Conn) error { return flow.DisarmFrom(ctx, conn, b.name) }); err != nil {
		return err
	}
	err := wait.Within(ctx, 10*time.Second, func(ctx context.Context) error {
		if err := b.target.Do(ctx, func(conn *pgx.Conn) error { return flow.DisarmTo(ctx, conn, b.name) }); err != nil {
			return err
		}
		_, err := b.opening.EnableRest(ctx, 5*time.Second)
		return err
	})
	// The record goes last: without it nobody knows that the way back was given up, not lost.
	if err := r.advance(ctx, Finished); err != nil {
		return err
	}
	if err == nil {
		err = wait.Within(ctx, 10*time.Second, b.store.Forget)
	}
	if err != nil {
		r.c.Logger.Warn("the old server still has something of the way back, until cleanup", "reason", err)
	}
	return nil
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
