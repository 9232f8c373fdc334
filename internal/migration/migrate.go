package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/walferry/walferry/internal/ask"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/guard"
	"github.com/walferry/walferry/internal/handover"
	"github.com/walferry/walferry/internal/hook"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/initial"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wayback"
)

// Observer is told what a running migrate does. Nil functions are not called.
type Observer struct {
	// Checked gets the preflight's report, also when it blocks.
	Checked func(check.Report)
	// Started is called once the migration is locked, with a function that returns what the run is
	// doing now, for whoever draws it.
	Started func(watch func() Status)
	// Switched is called when a switch is done, and the migration goes on the other way round.
	Switched func(result *CutoverResult, back bool)
}

// CheckError means that the preflight found something that blocks: exit code 3.
type CheckError struct{ Report check.Report }

func (e *CheckError) Error() string { return "the preflight found something that blocks" }

// Hint returns what the operator can do.
func (e *CheckError) Hint() string {
	return "fix what is marked BLOCK, by the SQL where it is given, and run the same command again"
}

// Outcome says how Migrate ended without an error.
type Outcome struct {
	Phase   Phase
	Until   Until          // what this run was to reach, as given or remembered; empty: there was nothing to do
	Stopped bool           // by its context; the same command resumes
	GaveUp  bool           // the way back, which was all that was left to do
	Cutover *CutoverResult // when it cut over, in this run or one before; also beside an error, such as one of fail.Difference

	Rows         int64 // copied
	Sequences    int   // that a one-time copy (UntilCopied) has set
	Transactions int64 // followed
	Changes      int64 // in them
}

// errFinished ends the following when the cutover is done, errAborted when the
// migration was given up, errCaughtUp when the user wanted no more.
var (
	errFinished = errors.New("cutover is done")
	errAborted  = errors.New("migration was aborted")
	errCaughtUp = errors.New("caught up")
)

// runner is one run of Migrate. It moves a migration from phase to phase.
type runner struct {
	*ends
	back      *ends              // the other way round
	wal       *wayback.Budget    // of the way back; nil: it was not followed in this run
	condition *wayback.Condition // of the way back
	initial   *initial.Copy
	groups    *handover.Groups

	told   func(*CutoverResult, bool)
	gaveUp bool // the way back

	mu      sync.Mutex
	cutover *CutoverResult        // once it is done
	answer  func(context.Context) // to who asked for what is done when the phase is recorded; nil: nobody has
	seen    *groups.Seen          // by its streams; nil: nothing was followed yet
}

// Migrate runs a migration from where it stands to where c.Until says. When ctx
// ends it finishes the transaction in hand and returns an Outcome with Stopped.
// Errors: those of kind fail.Usage and fail.Gate, *CheckError; anything else failed while running
// and is recorded, so that status shows it.
func Migrate(ctx context.Context, c Config, o Observer) (Outcome, error) {
	c, err := c.Fill()
	if err != nil {
		return Outcome{}, err
	}
	e, err := openTarget(ctx, c)
	if err != nil {
		return Outcome{}, err
	}
	defer e.close(ctx)
	if err := e.openSource(ctx); err != nil {
		return Outcome{}, e.oldAway(ctx, err)
	}
	if err := e.take(ctx, state.LockPatience); err != nil {
		return Outcome{}, err
	}
	r := &runner{ends: e, back: e.turned(), told: o.Switched}
	defer r.back.clients.Close()
	r.groups = newGroups(r.ends, r.back)
	if err := r.recall(ctx); err != nil {
		return Outcome{}, err
	}
	if r.rec != nil {
		if outcome, done, err := r.resumable(ctx); done || err != nil {
			return outcome, err
		}
	} else {
		r.c.Settle(state.Options{})
	}
	r.settled()
	r.condition = &wayback.Condition{Migration: r.c.Name, Live: r.live, Alert: func(text string) { r.clients.Tell(hook.Alert, text) }, Logger: r.c.Logger}
	r.live.Told = func() { r.clients.Tell(hook.Phase, "") }
	if err := r.preflight(ctx, o.Checked); err != nil {
		return Outcome{}, err
	}
	if err := r.begin(ctx); err != nil {
		return Outcome{}, err
	}
	r.initial = r.newCopy()
	r.live.Rows = r.initial.Rows
	if o.Started != nil {
		o.Started(r.live.Watch)
	}
	err = r.guarded(ctx)
	r.tellEnd(ctx, err)
	r.initial.Rows.Hold(context.WithoutCancel(ctx), nil)
	return r.conclude(ctx, err)
}

// preflight checks both servers, and has what it finds reported.
func (r *runner) preflight(ctx context.Context, checked func(check.Report)) error {
	report, err := check.Run(ctx, r.c.Preflight(r.rec))
	if err != nil {
		return err
	}
	if next := r.clients; r.c.Clients.Any() {
		if r.rec != nil && r.rec.Phase == Switched {
			next = r.back.clients
		}
		report = report.With(next.Findings(ctx)...)
	}
	if r.rec != nil {
		report = report.Eased()
	}
	if checked != nil {
		checked(report)
	}
	if report.Blocks() {
		return &CheckError{report}
	}
	return nil
}

// conclude says how a run has ended, which err is the reason of, and answers who still asks.
func (r *runner) conclude(ctx context.Context, err error) (Outcome, error) {
	clean := context.WithoutCancel(ctx)
	outcome := Outcome{Phase: r.live.Phase(), Cutover: r.cutover, Until: r.c.Until, GaveUp: r.gaveUp}
	r.count(clean, &outcome)
	defer r.answerRest(clean)
	if r.gaveUp || slices.Contains([]Phase{Switched, Following, Aborted}, outcome.Phase) {
		outcome.Cutover, r.cutover = nil, nil // the run has gone on since, also back
	}
	if outcome.Cutover != nil && r.cutover.FinishedAt != nil {
		// Whatever has ended the run after that: the cutover is done, and this is what is known.
		outcome.Stopped = ctx.Err() != nil && len(r.cutover.Unvalidated) > 0
		return outcome, r.cutover.Verdict()
	}
	switch {
	case errors.Is(err, guard.ErrRetained):
		outcome.Phase = Aborted
		return outcome, errors.Join(err, r.ended().GiveUp(clean, r.store, err.Error()))
	case err == nil, errors.Is(err, errFinished), errors.Is(err, errCaughtUp):
		return outcome, nil
	case ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled)):
		outcome.Stopped = true
		return outcome, nil
	case errors.Is(err, errAborted):
		return outcome, &fail.Error{Kind: fail.Run, Problem: "the migration was aborted", Advice: "`walferry cleanup` removes what is left of it"}
	}
	if recordErr := r.store.SetError(clean, err.Error()); recordErr != nil {
		r.c.Logger.Error("record the error on the target", "error", recordErr)
	}
	return outcome, identity.ExplainGap(r.tables.ExplainDrift(clean, err))
}

// settled is called once it is known what is migrated, and how.
func (r *runner) settled() {
	r.back.c = r.c.Turned()
	r.tables.Selection, r.back.tables.Selection = r.c.Selection(), r.back.c.Selection()
	r.definitions.Brought = r.tables.Brought
	r.live.Set(func(st *Status) {
		st.Name, st.Running = r.c.Name, true
		if r.rec != nil {
			st.Phase = r.rec.Phase
		}
	})
	if r.rec != nil {
		r.tables.Remember(r.rec.Tables)
	}
}

// answerRest answers what nobody has begun to carry out when a run ends.
func (r *runner) answerRest(ctx context.Context) {
	if !r.lock.Held(ctx) {
		return // another migrate may have it, and answers
	}
	r.answerNow(ctx)
	var done json.RawMessage
	if r.cutover != nil {
		already := *r.cutover
		already.Already = true
		done, _ = json.Marshal(already) // of numbers and texts
	}
	if err := r.store.Mailbox().AnswerRest(ctx, r.live.Phase(), done); err != nil {
		r.c.Logger.Debug("answer requests", "error", err)
	}
}

// count adds what is recorded of the work done, in this run and those before.
func (r *runner) count(ctx context.Context, o *Outcome) {
	st := Status{Name: r.c.Name}
	if err := st.ReadProgress(ctx, r.target, r.store); err != nil {
		r.c.Logger.Debug("count what was done", "error", err)
	}
	o.Sequences = r.initial.Carried
	o.Rows, o.Transactions, o.Changes = st.Copy.Rows, st.Stream.Transactions, st.Stream.Changes
}

// resumable holds what is recorded against what was asked for now.
func (r *runner) resumable(ctx context.Context) (Outcome, bool, error) {
	switch r.rec.Phase {
	case Finished:
		r.clients.Settle(ctx, true) //nolint:errcheck // it has said so
		late := r.definitions.Pending().Validate(ctx, func(s string) { r.c.Logger.Info(s) })
		result, err := cutover.EnableLeft(ctx, r.store, r.opening)
		if err != nil || result == nil {
			return Outcome{Phase: Finished}, true, errors.Join(err, late)
		}
		result.Already = true
		result.GiveUp()
		return Outcome{Phase: Finished, Cutover: result}, true, errors.Join(result.Verdict(), late)
	case Aborted:
		return Outcome{}, true, ask.Aborted(r.c.Name)
	}
	if err := r.c.Resume(r.rec.Options); err != nil {
		return Outcome{}, true, err
	}
	r.c.Settle(r.rec.Options)
	if r.c.Until == UntilCopied && slices.Contains([]Phase{Following, Fenced, Drained}, r.rec.Phase) {
		return Outcome{}, true, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("--until copied: the copy of migration %q is done, and it follows already", r.c.Name), Advice: "leave --until out and cut over, or abort, clean up and start over"}
	}
	if err := checkSource(ctx, r.c, r.rec); err != nil {
		return Outcome{}, true, err
	}
	return Outcome{}, false, nil
}

// begin records a new migration, before anything else is created: from here on slot and publication
// of this name are ours.
func (r *runner) begin(ctx context.Context) error {
	if err := r.tables.Select(ctx, r.rec != nil && r.rec.Phase != New); err != nil {
		return err
	}
	if r.rec != nil {
		r.c.Logger.Info("resuming", "phase", r.rec.Phase, "options", r.c.Options().String())
		if r.byItself() {
			r.c.Logger.Warn("begun with --cutover auto: it cuts over on its own as soon as it has caught up; --cutover manual reverts that")
		}
		r.live.Set(func(st *Status) { // what an earlier run has copied and received stays what status shows
			st.Copy, st.Indexes, st.Stream.ReceivedLSN, st.Back = r.rec.Live.Copy, r.rec.Live.Indexes, r.rec.Live.Received, r.rec.Live.WayBack
			st.Phases, st.Switches = r.rec.Live.Phases, r.rec.Live.Ran
		})
		if err := r.store.Take(ctx); err != nil {
			return err
		}
		now, err := r.store.Load(ctx)
		if err == nil && (now == nil || now.Phase != r.rec.Phase) {
			err = &fail.Error{Kind: fail.Gate, Problem: "the migration has advanced while this process looked at both servers: another one is running it", Advice: "run the same command again"}
		}
		if err != nil {
			return err
		}
		if err := r.store.SetOptions(ctx, r.c.Options()); err != nil {
			return err
		}
		if err := r.store.SetError(ctx, ""); err != nil { // of an earlier run: this one is in progress
			return err
		}
		if err := r.store.Mailbox().AnswerOld(ctx, r.live.Phase()); err != nil {
			return err
		}
		switch r.live.Phase() {
		case Prepared, Copying, Indexing, Following:
			return r.tables.CheckAgain(ctx)
		}
		return nil
	}
	id, err := identity.Source(ctx, session.Config{DSN: r.c.Source, Application: r.c.Name})
	if err != nil {
		return err
	}
	err = r.store.Begin(ctx, &state.Record{
		ToolVersion: r.c.ToolVersion, SystemID: id.SystemID, Timeline: id.Timeline, Database: id.Database,
		Slot: r.flow.Name.Source().Slot, Options: r.c.Options(),
	})
	if err != nil {
		return err
	}
	if err := r.store.Take(ctx); err != nil {
		return err
	}
	r.rec, err = r.store.Load(ctx)
	if err == nil && r.rec == nil {
		err = errors.New("the record that was just written is not there")
	}
	r.live.Moved(New)
	return err
}

// guarded is run with a guard beside it, which may end it.
func (r *runner) guarded(ctx context.Context) error {
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watching, end := context.WithCancel(context.WithoutCancel(ctx))
	var wait sync.WaitGroup
	g := &guard.Forth{Config: r.c, Tables: r.tables, Retention: r.flow.Retention(r.c.MaxRetainedWAL), Live: r.live}
	wait.Go(func() { g.Watch(watching, stop) })
	err := r.run(running)
	end()
	wait.Wait()
	// What the guard has found is why everything else has ended.
	if ctx.Err() == nil && running.Err() != nil && err != nil && !errors.Is(err, errFinished) {
		return context.Cause(running)
	}
	return err
}

// run walks the phases. Each case does work that is harmless to repeat, then records the next
// phase.
func (r *runner) run(ctx context.Context) error {
	defer r.live.Keep(ctx, r.store)()
	for {
		var next Phase
		var err error
		switch phase := r.live.Phase(); phase {
		case New:
			next, err = Prepared, r.initial.Prepare(ctx)
		case Prepared:
			next, err = Copying, r.initial.Begin(ctx)
		case Copying:
			next, err = Indexing, r.initial.Run(ctx)
		case Indexing:
			if next, err = Following, r.initial.Complete(ctx); err == nil && r.c.Until == UntilCopied {
				next, err = Finished, r.initial.End(ctx, r.ended())
			}
		case Following:
			if err := r.followForth(ctx); !errors.Is(err, errFinished) || r.live.Phase() != Switched {
				return err
			}
			r.tell(false)
			continue
		case Switched:
			next, err = r.switchedOver(ctx)
		case Fenced, Drained:
			if err := r.loadGroups(ctx); err != nil {
				return err
			}
			next, err = r.afterInterruptedCutover(ctx, r.ends, r.back)
		case Finished:
			return nil
		default:
			return fmt.Errorf("migration %q is in phase %q, which this version does not know", r.c.Name, phase)
		}
		if err != nil {
			return err
		}
		was := r.live.Phase()
		if was == next { // recorded with the last of its work
			continue
		}
		if err := r.advance(ctx, next); err != nil {
			return err
		}
		r.answerNow(ctx)
		if was == Switched && next == Following || next == Switched {
			r.tell(next == Following)
		}
	}
}

// tell reports a switch after which the run goes on the other way round.
func (r *runner) tell(back bool) {
	if r.cutover != nil && r.told != nil { // nil: an earlier run has done it
		r.told(r.cutover, back)
	}
}

// answerNow answers what is done with the phase that was recorded.
func (r *runner) answerNow(ctx context.Context) {
	r.mu.Lock()
	answer := r.answer
	r.answer = nil
	r.mu.Unlock()
	if answer != nil {
		answer(ctx)
	}
}

// advance records a phase and reports it.
func (e *ends) advance(ctx context.Context, phase Phase) error {
	// The step is done; a signal that arrives now must not make it undone.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := e.store.SetPhase(clean, phase); err != nil {
		return err
	}
	e.live.Moved(phase)
	if e.name.Direction == flow.Forth { // that of the way back is not what status shows
		e.c.Logger.Info("phase " + string(phase))
	}
	return context.Cause(ctx)
}

// Check runs the preflight alone. Of a migration that has begun it checks what resuming it needs:
// its slot and its tables are no obstacle, and must not be dropped.
func Check(ctx context.Context, c Config) (check.Report, error) {
	var lacking []check.Finding
	c.Clients, lacking = c.Clients.Complete()
	c, err := c.Fill()
	if err != nil {
		return check.Report{}, err
	}
	var rec *state.Record
	if target, err := session.OpenLink(ctx, session.Config{DSN: c.Target, Application: "check"}, nil); err == nil { // otherwise check.Run reports why
		defer target.Close()
		r, err := home(target, c).Load(ctx)
		begun := err == nil && r != nil && r.Phase != Finished && r.Phase != Aborted
		var strangers *catalog.StrangersError
		if errors.As(err, &strangers) { // the record is not read then: no SQL must be offered that ends its migration
			if err := target.Row(ctx, `select to_regclass('walferry.migration') is not null`, nil, &begun); err != nil {
				return check.Report{}, fmt.Errorf("look for a migration on the target: %w", err)
			}
			if begun {
				rec = &state.Record{}
			}
		} else if begun {
			rec = r
			if err := c.Resume(r.Options); err != nil {
				return check.Report{}, err
			}
			c.Settle(r.Options)
		}
	}
	config := c.Preflight(rec)
	config.Definitions = true
	report, err := check.Run(ctx, config)
	report = report.With(lacking...)
	if err == nil && c.Clients.Any() {
		report = report.With(clientFindings(ctx, c, rec)...)
	}
	return report, err
}
