package migration

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/handover"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// errLeaveIt is for a request that the end of the run answers: the automatic cutover of --cutover
// auto was done first, and what is known of that is reported then.
var errLeaveIt = errors.New("the cutover was done on its own")

// serve carries out what other processes ask, one request after the other.
func (f *following) serve(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for idle := 0; ctx.Err() == nil; wait.Tick(ctx, tick) {
		f.undoLate(ctx)
		f.settleLate(ctx, stop)
		later := ""
		if f.running.Held() {
			later = f.switchKind() // which needs the applier; the hold ends soon
		}
		q, err := f.r.store.Mailbox().Next(ctx, later)
		if err != nil || q == nil {
			if err != nil && ctx.Err() == nil {
				f.r.c.Logger.Debug("read requests", "error", err)
			}
			if idle++; err == nil && later == "" && idle > handover.LastLooks && f.r.groups.Abandon(ctx, f.r.store.Mailbox()) {
				stop(errGroups)
				return
			}
			continue
		}
		f.r.c.Logger.Info("asked for "+q.Kind, "request", q.ID)
		a, end, err := f.carryOut(ctx, q)
		if errors.Is(err, errLeaveIt) {
			return
		}
		if errors.Is(err, errGroups) { // the request is carried out when both flows run
			stop(err)
			return
		}
		if err != nil {
			a.Error, a.Hint, a.Gate = err.Error(), fail.Hint(err), fail.Is(err, fail.Gate)
			f.r.c.Logger.Warn(q.Kind+" was not done", "reason", err)
		}
		done := err == nil
		answer := func(ctx context.Context) {
			err := wait.Within(ctx, 10*time.Second, func(ctx context.Context) error { return f.r.store.Mailbox().Answer(ctx, q.ID, done, a) })
			if err != nil {
				f.r.c.Logger.Error("answer "+q.Kind, "error", err)
			}
		}
		switch {
		case q.Kind == "finish" && done: // answered by the end of the run
		case q.Kind == "fallback" && done && end != nil && !errors.Is(end, errGroups): // who is answered may ask at once for what the next phase allows
			f.r.mu.Lock()
			f.r.answer = answer
			f.r.mu.Unlock()
		default:
			answer(ctx)
		}
		if end != nil {
			stop(end)
			return
		}
	}
}

// carryOut does one request. With end the run is over.
func (f *following) carryOut(ctx context.Context, q *state.Request) (a state.Answer, end error, err error) {
	switch q.Kind {
	case "cutover", "fallback":
		switch {
		case f.r.groups.Awaited != q.ID && f.r.groups.Abandon(ctx, f.r.store.Mailbox()):
			return a, nil, errGroups
		case f.unsettled.Load() && f.r.groups.Mode() != nil:
			return a, nil, handover.ErrUnsettled
		}
		if len(q.Args.Tables) > 0 || q.Kind == "fallback" && f.r.groups.Mode() != nil {
			return f.handOver(ctx, q)
		}
		return f.switchOver(ctx, q)
	case "finish":
		if f.e.name.Direction == flow.Forth {
			return a, nil, &fail.Error{Kind: fail.Gate, Problem: "the old server is the database: there is no way back to give up", Advice: "`walferry cutover` switches to the new server; `walferry abort` gives the migration up"}
		}
		done, err := f.turn(ctx)
		if err != nil {
			return a, nil, err
		}
		defer done()
		if f.over() {
			return a, nil, errLeaveIt
		}
		if err := f.e.store.SetPhase(ctx, Finished); err != nil {
			return a, nil, err
		}
		f.e.live.Moved(Finished)
		return a, errFinished, nil
	case "abort":
		if f.e.name.Direction == flow.Back {
			return a, nil, &fail.Error{Kind: fail.Gate, Problem: "the new server is the database now, and the old one follows it", Advice: "`walferry fallback` goes back; `walferry finish` gives the way back up"}
		}
		if f.r.groups.Mode() != nil {
			return a, nil, handover.Owned()
		}
		// A cutover that nobody has asked for, that of --cutover auto, is undone first.
		done, err := f.turn(ctx)
		if err != nil {
			return a, nil, err
		}
		defer done()
		if f.over() {
			return a, nil, errLeaveIt
		}
		if err := f.r.store.SetPhase(ctx, Aborted); err != nil {
			return a, nil, err
		}
		f.r.live.Moved(Aborted)
		return a, errAborted, nil
	case "hold":
		a.Progress, a.Holder, err = f.appliers(q).Hold(ctx, flow.Holder{Token: q.Args.Token, Name: q.Args.Asker})
		return a, nil, f.e.sides().Error(err)
	case "advance":
		// A position of 0 would let the applier stop where it is: short of what is compared.
		lsn, err := pglogrepl.ParseLSN(q.Args.LSN)
		if err != nil || lsn == 0 || lsn.String() != q.Args.LSN { // which ignores what follows a position
			return a, nil, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("the request's position %q is not a position", q.Args.LSN), Advice: "the asking process may be of another version: use the same one everywhere"}
		}
		a.Progress, err = f.appliers(q).Advance(ctx, flow.Holder{Token: q.Args.Token, Name: q.Args.Asker}, lsn)
		return a, nil, f.e.sides().Error(err)
	case "release":
		f.appliers(q).Release(q.Args.Token)
		return a, nil, nil
	}
	return a, nil, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("the running migrate does not know the request %q", q.Kind), Advice: "it may be of an older version: use the same one everywhere"}
}

// switchKind is the request for a switch in the direction that is followed.
func (f *following) switchKind() string {
	if f.e.name.Direction == flow.Back {
		return "fallback"
	}
	return "cutover"
}

// switchOver carries out a request for a switch, or for its rehearsal.
func (f *following) switchOver(ctx context.Context, q *state.Request) (a state.Answer, end error, err error) {
	if q.Kind != f.switchKind() {
		a, err = f.already(ctx, q)
		return a, nil, err
	}
	wanted, stop := f.r.store.Mailbox().WhileWanted(ctx, q.ID)
	defer stop()
	result, err := f.cutover(ctx, wanted, true, config.Asked(q.Args), f.step(ctx, q))
	if err != nil && !result.Sealed && f.over() {
		return a, nil, errLeaveIt
	}
	if why := unwanted(wanted); err != nil && !result.Sealed && why != nil {
		if fail.Is(err, fail.Gate) || !result.Touched { // everything is as before
			err = &fail.Error{Kind: fail.Gate, Problem: f.e.sides().Reword(why.Problem) + ": everything is as before", Advice: why.Advice}
		}
	}
	if result.Sealed {
		// There is no way back: the run ends here, and the next one goes forward.
		if end = err; end == nil {
			end = errFinished
		}
	}
	text, unwritten := json.Marshal(result)
	a.Cutover = text
	return a, end, cmp.Or(err, unwritten)
}

// step returns what reports a step of a request to who has asked.
func (f *following) step(ctx context.Context, q *state.Request) func(string) {
	return func(text string) {
		f.r.c.Logger.Info(q.Kind + ": " + text)
		if err := f.r.store.Mailbox().AddStep(context.WithoutCancel(ctx), q.ID, text); err != nil {
			f.r.c.Logger.Debug("report step", "error", err)
		}
	}
}

// turn waits until no switch is in progress, and keeps the next one from beginning until done is called.
func (f *following) turn(ctx context.Context) (done func(), err error) {
	select {
	case f.cutting <- struct{}{}:
		return func() { <-f.cutting }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// over reports whether a switch is done.
func (f *following) over() bool {
	phase := f.e.live.Phase()
	return phase == Finished || phase == Switched
}

// already answers a request for a switch that was done while it waited for its turn.
func (f *following) already(ctx context.Context, q *state.Request) (a state.Answer, err error) {
	result := &CutoverResult{}
	found, err := f.other.store.Values().Get(ctx, state.Result, result)
	if err == nil && (q.Args.DryRun || !found) {
		err = &fail.Error{Kind: fail.Gate, Problem: "the " + q.Kind + " is done already", Advice: "`walferry " + f.switchKind() + "` switches the other way round"}
	}
	if err == nil {
		result.Already = true
		a.Cutover, err = json.Marshal(result)
	}
	return a, err
}

// unwanted returns why the context of a cutover has ended, if nobody wants it any more; otherwise
// nil.
func unwanted(wanted context.Context) *fail.Error {
	for _, why := range []*fail.Error{state.ErrWithdrawn, state.ErrDeserted, state.ErrAborting} {
		if errors.Is(context.Cause(wanted), why) {
			return why
		}
	}
	return nil
}
