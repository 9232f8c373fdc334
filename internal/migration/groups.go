package migration

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/walferry/walferry/internal/ask"
	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/handover"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/internal/wayback"
)

// errGroups ends the following because both flows are to run from now on, or no longer.
var errGroups = errors.New("groups of tables were made, or are no more")

// newGroups returns those of a run.
func newGroups(forth, back *ends) *handover.Groups {
	side := func(e *ends) *handover.Side {
		return &handover.Side{Name: e.name, From: e.flow.From, To: e.flow.To, Store: e.store, Tables: e.tables, Sequences: e.carrier}
	}
	return &handover.Groups{Forth: side(forth), Back: side(back), Tool: forth.c.ToolVersion, Logger: forth.c.Logger}
}

// loadGroups reads which groups there are. Their tables have no part in a switch of the rest.
func (r *runner) loadGroups(ctx context.Context) error {
	if err := r.groups.Load(ctx); err != nil {
		return err
	}
	r.leaveOut(r.groups.Mode().Away())
	return nil
}

// followBoth follows in both directions, until the rest is switched, too, or there are no groups any more.
func (r *runner) followBoth(ctx context.Context) error {
	b := r.back
	if err := errors.Join(r.recall(ctx), b.recall(ctx)); err != nil {
		return err
	}
	r.flow.Pass = r.groups.Mode().Pass
	r.wal = wayback.NewBudget(b.flow, r.c.MaxRetainedWALTarget, func(flow.Retained) {}, r.c.Logger)
	if b.rec != nil {
		if err := b.store.Take(ctx); err != nil {
			return err
		}
		if err := errors.Join(r.tables.Select(ctx, true), b.tables.Select(ctx, true)); err != nil {
			return err
		}
	}
	if r.groups.Entering == nil {
		if err := r.settleGroups(ctx); err != nil {
			return err
		}
		if len(r.groups.Mode().Groups) == 0 {
			return cmp.Or(r.groups.Leave(ctx, r.retireBack), errGroups)
		}
		if r.groups.Entire() {
			r.cutover = nil // which was before: nothing is switched
			return cmp.Or(r.groups.Whole(ctx), r.advance(ctx, Switched), errFinished)
		}
	}
	r.groups.Begun(b.armed.Begins)
	following, end := context.WithCancel(ctx)
	done := make(chan struct{})
	beside := &handover.Beside{
		Groups: r.groups, Flow: b.flow, Budget: r.wal, Condition: r.condition, Seen: r.evidence,
		Watch: func(s *groups.Stream) flow.Helper { return r.watch(b, s) },
	}
	go func() { defer close(done); beside.Keep(following) }()
	defer func() { end(); <-done }()
	return r.follow(ctx, r.ends, b)
}

// retireBack removes the flow back when there are no groups any more. With stands the new server stays fenced, also for the applier without the pass.
func (r *runner) retireBack(ctx context.Context, stands bool) error {
	r.live.Set(func(st *Status) { st.Back = nil })
	if !stands {
		if err := r.back.flow.Disarm(ctx); err != nil {
			return err
		}
		r.back.rec, r.back.armed = nil, state.Armed{}
		return r.back.store.Forget(ctx)
	}
	r.armed.Pass = r.groups.Mode().Pass
	if err := r.store.PutArmed(ctx, r.armed); err != nil {
		return err
	}
	if err := r.recall(ctx); err != nil {
		return err
	}
	return r.back.retire(ctx)
}

// settleGroups decides who owns which group, and finishes what was interrupted.
func (r *runner) settleGroups(ctx context.Context) error {
	err := r.groups.Settle(ctx, func(ctx context.Context, group handover.Group, side *handover.Side, rec *state.Record) (bool, error) {
		e, other := r.ends, r.back
		if side == r.groups.Back {
			e, other = r.back, r.ends
		}
		s := e.newSwitch(other, CutoverOptions{}.Fill(), func(line string) { r.c.Logger.Info("hand-over: " + line) })
		if err := r.groups.Shape(ctx, s, group, side); err != nil {
			return false, err
		}
		return s.Resume(ctx, rec.Phase == Drained, rec.FencedAt, rec.DrainedAt)
	})
	r.leaveOut(r.groups.Mode().Away())
	return err
}

// evidence returns what the streams of a run have shown of which tables are written together.
func (r *runner) evidence(ctx context.Context) (seen *groups.Seen, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen, err = groups.NewSeen(ctx, r.store, r.rec.Tables, 12*r.c.Heartbeat, r.c.Logger)
	}
	return r.seen, err
}

// watch returns the helper of a flow that shows who writes on the server that it comes from.
func (r *runner) watch(e *ends, stream *groups.Stream) flow.Helper {
	return func(ctx context.Context, _ context.CancelCauseFunc) {
		stream.Watch(ctx, e.source, max(100*time.Millisecond, r.c.Heartbeat/10), func(now *state.Writes) {
			r.live.Set(func(st *Status) {
				if e.name.Direction == flow.Back {
					st.Writes.New = now
				} else {
					st.Writes.Old = now
				}
			})
		})
	}
}

// handOver carries out a request to hand a group over, or to switch it back.
func (f *following) handOver(ctx context.Context, q *state.Request) (a state.Answer, end error, err error) {
	r := f.r
	if f.e.name.Direction == flow.Back && q.Kind == "cutover" {
		return a, nil, ask.Entire()
	}
	done, err := f.turn(ctx)
	if err != nil {
		return a, nil, err
	}
	defer done()
	step, o := f.step(ctx, q), config.Asked(q.Args)
	wanted, stop := r.store.Mailbox().WhileWanted(ctx, q.ID)
	defer stop()
	if r.c.Clients.Any() {
		step("clients are neither held nor led elsewhere for some tables: hooks are told \"handed\" when the other server owns them; PgBouncer is left alone")
	}
	err = f.seen.Flush(ctx)
	var result *CutoverResult
	switch {
	case err != nil:
	case f.e.name.Direction == flow.Back: // the new server owns everything
		err = f.hand(q, o, step).Divide(wanted, f.e.armed.Pass, f.e.newWayBack(f.other))
	default:
		result, err = f.hand(q, o, step).Do(ctx, wanted)
	}
	if f := fail.Find(err, fail.Usage); f != nil { // a pattern; the asker's command line is right
		err = &fail.Error{Kind: fail.Gate, Problem: f.Problem, Advice: f.Advice}
	}
	if result != nil {
		a.Cutover, _ = json.Marshal(result) // of numbers and texts
	}
	switch {
	case errors.Is(err, handover.ErrBothFirst):
		r.groups.Awaited = q.ID
		return a, nil, errGroups
	case f.e.name.Direction == flow.Back:
		if r.groups.Mode() != nil && wait.Within(context.WithoutCancel(ctx), 30*time.Second, r.mergeGroups) != nil {
			end = err // the next attempt to follow back does it
		}
	case r.groups.Mode() != nil:
		r.groups.Forget()
		if left := r.settleGroups(context.WithoutCancel(ctx)); left != nil {
			r.c.Logger.Error("settle who owns the group", "error", left)
			f.unsettled.Store(true)
		}
		if m := r.groups.Mode(); len(m.Groups) == 0 || r.groups.Entire() {
			end = errGroups
		}
	}
	return a, end, err
}

// hand returns what carries a request out.
func (f *following) hand(q *state.Request, o CutoverOptions, step func(string)) *handover.Hand {
	r := f.r
	return &handover.Hand{
		Groups: r.groups, Switchback: q.Kind == "fallback", Tables: q.Args.Tables, Loose: q.Args.Loose,
		Timeout: o.Timeout, MaxLag: o.MaxLag, Running: f.running, Step: step, Closed: func() { f.unsettled.Store(true) },
		Switch: func(side *handover.Side) *cutover.Switch {
			if side == r.groups.Back {
				return f.other.newSwitch(f.e, o, step)
			}
			return f.e.newSwitch(f.other, o, step)
		},
		Pass: func(ctx context.Context) (string, error) {
			return cmp.Or(r.armed.Pass, rand.Text()), r.back.recall(ctx)
		},
		Arm: func(ctx context.Context, pass string) error {
			w := r.newWayBack(r.back)
			w.Pass, w.Stands = pass, true
			defer w.Stop()
			return w.Arm(ctx, step)
		},
		Opened: func(armed state.Armed) {
			r.back.armed = armed
			r.back.live.Moved(Following)
		},
		Under: func(under bool) {
			f.e.shown.Set(func(st *Status) {
				if st.Under = nil; under {
					st.Under = &state.Under{Asked: true, DryRun: o.DryRun}
				}
			})
		},
		Handed: func(group handover.Group) { r.clients.TellHanded(q.Kind, group.Names()) },
	}
}

// settleLate settles what could not be settled when a hand-over had ended.
func (f *following) settleLate(ctx context.Context, stop context.CancelCauseFunc) {
	if !f.unsettled.Load() || f.r.groups.Mode() == nil {
		return
	}
	if err := wait.Within(ctx, 30*time.Second, f.r.settleGroups); err != nil {
		f.r.c.Logger.Debug("settle who owns the groups", "error", err)
		return
	}
	f.unsettled.Store(false)
	if len(f.r.groups.Mode().Groups) == 0 || f.r.groups.Entire() {
		stop(errGroups)
	}
}

// mergeGroups makes the groups parts of everything, which the new server owns now.
func (r *runner) mergeGroups(ctx context.Context) error {
	if err := r.loadGroups(ctx); err != nil || r.groups.Mode() == nil {
		return err
	}
	if err := r.tables.Select(ctx, true); err != nil {
		return err
	}
	if err := r.groups.Merge(ctx); err != nil {
		return fmt.Errorf("make the groups parts of the whole: %w", err)
	}
	r.leaveOut(nil)
	return nil
}

// appliers returns the flow whose applier a request is for.
func (f *following) appliers(q *state.Request) *flow.Running {
	if q.Args.Flow == f.other.name.String() {
		if back := f.r.groups.Running(); back != nil {
			return back
		}
	}
	return f.running
}
