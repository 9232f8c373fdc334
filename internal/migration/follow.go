package migration

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/guard"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/internal/wayback"
)

// following is the part of a run that applies the stream, and what may be asked of it meanwhile.
type following struct {
	r       *runner
	e       *ends // in the direction that is followed
	other   *ends // the other way round
	running *flow.Running
	seen    *groups.Seen
	cutting chan struct{} // full while a cutover is in progress

	unsettled atomic.Bool // who owns a group has to be decided again

	mu      sync.Mutex
	closed  bool // a cutover that was undone could not un-fence
	halfway bool // one that was undone could not drop its foreign keys, or record that it follows
}

// followForth applies changes until the cutover is done, the migration is aborted,
// ctx ends, or something needs an operator.
func (r *runner) followForth(ctx context.Context) error {
	for {
		if err := r.loadGroups(ctx); err != nil {
			return err
		}
		follow := r.followAlone
		if r.groups.Mode() != nil {
			follow = r.followBoth
		}
		if err := follow(ctx); !errors.Is(err, errGroups) {
			return err
		}
	}
}

// followAlone is followForth where no group was handed over.
func (r *runner) followAlone(ctx context.Context) error {
	was := FallBackMode(r.rec.Options.FallBack) // of the run before, which may have died with a way back armed
	// The fence first: to remove the slot may take its time.
	if err := r.takeDownLeft(ctx); err != nil {
		return err
	}
	if r.c.FallBack != NoFallBack || was != "" && was != NoFallBack || r.armed.Pass != "" {
		if err := r.back.retire(ctx); err != nil {
			return err
		}
	}
	r.back.clients.Settle(ctx, true) //nolint:errcheck // it has said so
	r.live.Set(func(st *Status) { st.ByItself = r.byItself() || r.c.Until == UntilCaughtUp })
	return r.follow(ctx, r.ends, r.back)
}

// takeDownLeft takes the fence down that an earlier run has left on the source.
func (e *ends) takeDownLeft(ctx context.Context) error {
	return e.fence.TakeDownLeft(ctx, func() { e.clients.Settle(ctx, false) }, func(text string) { e.c.Logger.Warn(text) })
}

// follow follows in the direction of e.
func (r *runner) follow(ctx context.Context, e, other *ends) (err error) {
	defer func() { err = e.tables.ExplainLost(ctx, err) }()
	// What an interrupted cutover had prepared must not act on what is applied, and its
	// fence must not refuse anybody until its deadline: a rehearsal, and a cutover that
	// only puts the triggers up, are interrupted in this very phase.
	if err := errors.Join(e.takeDownLeft(ctx), e.putAside(ctx)); err != nil {
		return err
	}
	seen, err := r.evidence(ctx)
	if err != nil {
		return err
	}
	stream := seen.Stream()
	r.live.Step("")
	words := *e.words(e.tables.InsertOnly())
	if r.groups.Mode() != nil {
		words = r.groups.Words(r.groups.Forth)
	}
	running, err := e.flow.Start(ctx, flow.Followed{
		Originals: flow.OriginalsOf(e.tables.Remembered()), Words: words, Start: e.armed.Begins,
		Saw: stream.Saw,
	})
	if err != nil {
		return err
	}
	defer running.Close(ctx)
	r.live.Follows(e.flow)
	if e.name.Direction == flow.Back {
		r.condition.Begin()
	}
	opened := other.wasOpened() // before a switch arms the other flow beside what is below
	f := &following{r: r, e: e, other: other, running: running, seen: seen, cutting: make(chan struct{}, 1)}
	return running.Run(ctx, r.lock.Guard, f.serve, running.KeepWords, seen.Keep, r.watch(e, stream), func(ctx context.Context, stop context.CancelCauseFunc) {
		if e.name.Direction == flow.Back {
			r.wal.Watch(ctx, r.c.Heartbeat, stop)
		}
	}, func(ctx context.Context, stop context.CancelCauseFunc) {
		if e.name.Direction == flow.Back {
			(&guard.Back{Config: r.c, Tables: e.tables, Phase: e.live.Phase, Live: r.live}).Watch(ctx, stop)
		}
	}, func(ctx context.Context, _ context.CancelCauseFunc) {
		if e.name.Direction == flow.Back {
			wayback.Attend(ctx, e.flow, running, r.c.Heartbeat, func(err error) { r.condition.After(err) })
		}
	}, func(ctx context.Context, _ context.CancelCauseFunc) {
		if opened {
			other.validateRest(ctx)
		}
	}, func(ctx context.Context, _ context.CancelCauseFunc) {
		if ahead := r.ahead(e); ahead != nil {
			behind := &wayback.Behind{Sides: e.sides(), Live: r.live, Logger: e.c.Logger}
			wayback.KeepAhead(ctx, ahead, r.c.Heartbeat, f.cutting, f.over, behind.Tell)
		}
	}, func(ctx context.Context, stop context.CancelCauseFunc) {
		if e.name.Direction == flow.Forth && (r.c.Until == UntilCaughtUp || r.byItself()) {
			f.onceCaughtUp(ctx, stop)
		}
	})
}

// ahead returns what keeps sequences ahead while e is followed; nil: nobody has to open by hand what it goes to.
func (r *runner) ahead(e *ends) wayback.Ahead {
	switch {
	case r.groups.Mode() != nil:
		return r.groups.Ahead()
	case e.armed.Pass != "": // it is fenced
		return &cutover.Ahead{Carrier: e.carrier()}
	}
	return nil
}

// byItself reports whether the run cuts over once it has caught up. It does that once: after a fallback somebody has to ask.
func (r *runner) byItself() bool {
	return r.c.Auto == On && r.armed.Pass == "" && r.groups.Mode() == nil
}

// onceCaughtUp waits for the first canary that comes back in time, then ends the run, or cuts over.
func (f *following) onceCaughtUp(ctx context.Context, stop context.CancelCauseFunc) {
	err := wait.Until(ctx, wait.Every(time.Second), func() (bool, error) {
		lag, err := f.running.Canary(ctx)
		return err == nil && lag <= f.r.c.Cut.MaxLag, nil
	})
	if err != nil || ctx.Err() != nil {
		return
	}
	f.r.c.Logger.Info("caught up")
	if f.r.c.Until == UntilCaughtUp {
		options := f.r.c.Options()
		options.Until = string(UntilCutover) // reached: the next run continues, unless it is given again
		if err := wait.Within(ctx, 10*time.Second, func(ctx context.Context) error { return f.r.store.SetOptions(ctx, options) }); err != nil {
			f.r.c.Logger.Warn("the next migrate will stop here again", "reason", err)
		}
		stop(errCaughtUp)
		return
	}
	wanted, end := f.r.store.Mailbox().WhileWanted(ctx, 0)
	defer end()
	_, err = f.cutover(ctx, wanted, false, f.r.c.Cut, func(step string) { f.r.c.Logger.Info("cutover: " + step) })
	switch {
	case err == nil:
		err = errFinished
	case unwanted(wanted) != nil && f.r.live.Phase() == Following:
		return // the abort ends the run
	}
	stop(err)
}
