// Package ask asks the running migrate for a switch, or for the end of the way back, from another process. It looks first at
// where the migration is: what was done before is reported, not done again, and what cannot be done is refused with what can.
package ask

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// Asker asks the running migrate of one migration.
type Asker struct {
	Store *state.Store    // of the migration
	Keys  *schema.Pending // that a cutover may have left to be validated
	// CheckSource returns an error if the source that was given is not that of the migration.
	CheckSource func(context.Context, *state.Record) error
	// Back has a function look at the record of the flow back, which is on the old server.
	Back func(context.Context, func(*state.Store) error) error
	// Alone gives the way back up where no migrate is running.
	Alone func(context.Context) error

	Patient bool         // a migration that does not follow yet is waited for
	Step    func(string) // gets each step as it is reported; nil: nobody wants to know
}

// Cutover asks for a switch to the new server, and waits for it. An error of kind fail.Gate: nothing was changed, or everything is as
// before. With a result and another error the cutover is done, and they say what is known.
func (a *Asker) Cutover(ctx context.Context, args state.Args) (result *cutover.Result, err error) {
	if len(args.Tables) > 0 {
		return a.group(ctx, "cutover", args)
	}
	r, err := a.awaitFollowing(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, state.ErrNotBegun
	case err != nil:
		return nil, err
	case r == nil:
		return nil, a.Store.Missing(ctx)
	case r.Phase == state.Aborted:
		return nil, Aborted(r.Name)
	case (r.Phase == state.Finished || r.Phase == state.Switched) && args.DryRun:
		advice := "see `walferry status`"
		if r.Phase == state.Switched {
			advice = "`walferry fallback --dry-run` rehearses the way back"
		}
		return nil, &fail.Error{Kind: fail.Gate, Problem: "the cutover is done already", Advice: advice}
	case (r.Phase == state.Fenced || r.Phase == state.Drained) && !r.Alive:
		return nil, underWay("cutover", false)
	case r.Phase == state.Switched:
		if err := a.stillSwitched(ctx, r); err != nil {
			return nil, err
		}
		fallthrough
	case r.Phase == state.Finished:
		if result, err = cutover.AwaitResult(ctx, a.Store, a.Keys, a.Step); err != nil {
			return nil, err
		}
		result.Already = true
		if r.Phase == state.Finished {
			result.GiveUp()
		} else if w := r.Live.WayBack; w != nil && w.State != state.BackFollowing && r.Alive {
			a.step(fmt.Sprintf("the way back is %s since %s: %s", w.State, w.Since.UTC().Format(time.DateTime), w.Reason))
		}
		return result, result.Verdict()
	}
	return a.ask(ctx, r, "cutover", args)
}

// Fallback asks for a switch back to the old server, and waits for it, as Cutover does.
func (a *Asker) Fallback(ctx context.Context, args state.Args) (*cutover.Result, error) {
	under, unread := a.asked(ctx, "cutover") // before the phase: one that has ended since is seen there
	r, returned, err := a.look(ctx)
	err = cmp.Or(err, unread)
	if err == nil && r.Phase == state.Switched && len(args.Tables) > 0 {
		return a.group(ctx, "fallback", args)
	}
	if err == nil && r.Phase == state.Following {
		grouped, unread := a.grouped(ctx)
		if err = unread; grouped || len(args.Tables) > 0 {
			return a.group(ctx, "fallback", args)
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, state.ErrNotBegun
	case err != nil:
		return nil, err
	case r.Phase == state.Switched:
		return a.ask(ctx, r, "fallback", args)
	case r.Phase == state.Finished:
		return nil, &fail.Error{
			Kind: fail.Gate, Problem: "there is no way back: the migration is finished, and the old server does not follow",
			Advice: "the new server is the database, with every row; the old one lacks what was written since the switch, or since the way back was given up",
		}
	case !returned:
		return nil, &fail.Error{Kind: fail.Gate, Problem: "the migration has not cut over: there is nothing to go back from", Advice: "the old server is the database, and takes writes"}
	case under && r.Alive:
		return nil, underWay("cutover", true)
	case args.DryRun:
		return nil, &fail.Error{Kind: fail.Gate, Problem: "the fallback is done already: the old server is the database", Advice: "`walferry cutover --dry-run` rehearses the next switch to the new one"}
	}
	if err := a.CheckSource(ctx, r); err != nil {
		return nil, err
	}
	result, err := a.fellBack(ctx)
	if err != nil {
		return nil, err
	}
	result.Already = true
	return result, result.Verdict()
}

// Finish asks for the end of the way back, and waits for it. It reports whether that was so before.
func (a *Asker) Finish(ctx context.Context) (already bool, err error) {
	r, returned, err := a.look(ctx)
	grouped := false
	if err == nil {
		grouped, err = a.grouped(ctx)
	}
	switch {
	case err != nil:
		return false, err
	case r.Phase == state.Finished:
		return true, nil
	case r.Phase != state.Switched && grouped:
		return false, &fail.Error{Kind: fail.Gate, Problem: "groups of tables were handed over, and the old server owns the rest", Advice: "`walferry cutover` hands over all that is left, and `walferry finish` ends it then; `walferry fallback` switches the groups back"}
	case r.Phase != state.Switched && returned:
		return false, &fail.Error{Kind: fail.Gate, Problem: "the old server is the database again: there is no way back to give up", Advice: "`walferry cutover` switches to the new server; `walferry abort` gives the migration up"}
	case r.Phase != state.Switched:
		return false, &fail.Error{Kind: fail.Gate, Problem: "the migration has not cut over: there is no way back to give up", Advice: "`walferry cutover` switches to the new server; `walferry abort` gives the migration up"}
	}
	if !r.Alive { // the old server, without which no migrate runs, may be why the way back is given up
		return false, a.Alone(ctx)
	}
	_, err = a.Store.Mailbox().Ask(ctx, "finish", state.Args{}, a.Step)
	return false, err
}

// ask asks for a switch that is possible as the migration is.
func (a *Asker) ask(ctx context.Context, r *state.Record, kind string, args state.Args) (result *cutover.Result, err error) {
	if err := a.CheckSource(ctx, r); err != nil && ctx.Err() != nil {
		return nil, state.ErrNotBegun
	} else if err != nil {
		return nil, err
	}
	answer, err := a.Store.Mailbox().Ask(ctx, kind, args, a.Step)
	switch {
	case !errors.Is(err, state.ErrDone):
		if len(answer.Cutover) > 0 {
			err = cmp.Or(err, json.Unmarshal(answer.Cutover, &result))
		}
	case kind == "cutover":
		result, err = cutover.AwaitResult(ctx, a.Store, a.Keys, nil)
	default:
		result, err = a.fellBack(ctx)
	}
	if err == nil && result != nil {
		err = result.Verdict()
	}
	return result, err
}

// look reads the record of a migration, and whether a fallback has made the old server the database again. A switch
// that somebody else has asked for is not waited for.
func (a *Asker) look(ctx context.Context) (r *state.Record, returned bool, err error) {
	if r, err = a.Store.LoadAlive(ctx); err != nil {
		return nil, false, err
	}
	switch {
	case r == nil:
		return nil, false, a.Store.Missing(ctx)
	case r.Phase == state.Aborted:
		return nil, false, Aborted(r.Name)
	case r.Phase == state.Fenced || r.Phase == state.Drained:
		return nil, false, underWay("cutover", r.Alive)
	}
	var armed state.Armed
	_, err = a.Store.Values().Get(ctx, state.Arming, &armed)
	return r, armed.Pass != "", err // the flow forth is armed by a fallback, and by nothing else
}

// stillSwitched returns an error if the new server is about to stop being the database, or has stopped: that is recorded on it last.
func (a *Asker) stillSwitched(ctx context.Context, r *state.Record) error {
	under, err := a.asked(ctx, "fallback")
	switch {
	case err != nil:
		return err
	case under:
		return underWay("fallback", r.Alive)
	case r.Alive:
		return nil
	}
	if err := a.CheckSource(ctx, r); err != nil {
		return err
	}
	return a.Back(ctx, func(s *state.Store) error {
		back, err := s.Load(ctx)
		if err != nil {
			return err
		}
		if back != nil && (back.Phase == state.Fenced || back.Phase == state.Drained || back.Phase == state.Switched) {
			return underWay("fallback", false)
		}
		a.step("no migrate is running: what is written on the new server does not come to the old one until `walferry migrate` runs again")
		return nil
	})
}

// asked reports whether a switch of a kind is in progress, or is to begin next.
func (a *Asker) asked(ctx context.Context, kind string) (bool, error) {
	open, err := a.Store.Mailbox().Open(ctx)
	return slices.ContainsFunc(open, func(o state.Open) bool { return o.Kind == kind && !o.DryRun }), err
}

// underWay is the error of a question that cannot be answered before a switch of a kind has come to its end.
func underWay(kind string, alive bool) error {
	if alive {
		return &fail.Error{Kind: fail.Gate, Problem: "a " + kind + " is in progress", Advice: "ask again when it is done: `walferry status` shows where it stands"}
	}
	return &fail.Error{Kind: fail.Gate, Problem: "a " + kind + " was interrupted, and no migrate is running", Advice: "start `walferry migrate`: it finishes the " + kind + ", or undoes it; then ask again"}
}

// fellBack returns what the last fallback has measured.
func (a *Asker) fellBack(ctx context.Context) (result *cutover.Result, err error) {
	err = a.Back(ctx, func(s *state.Store) error {
		found, err := s.Values().Get(ctx, state.Result, &result)
		if err == nil && !found {
			err = &fail.Error{Kind: fail.Gate, Problem: "the old server is the database", Advice: "see `walferry status`"}
		}
		return err
	})
	return result, err
}

func (a *Asker) step(text string) {
	if a.Step != nil {
		a.Step(text)
	}
}

// Aborted is the error of a migration that was given up.
func Aborted(name string) error {
	return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("migration %q was aborted: the target's data are unfit", name), Advice: "run `walferry cleanup`, empty the target, and start again"}
}

// awaitFollowing reads the record of a migration that is to be cut over. If it does not follow yet
// the error is a gate's, with how far it is: nothing is switched hours after somebody has asked for
// it. A patient asker waits for it.
func (a *Asker) awaitFollowing(ctx context.Context) (*state.Record, error) {
	for told := ""; ; {
		r, err := a.Store.LoadAlive(ctx)
		if err != nil || r == nil {
			return r, err
		}
		switch r.Phase {
		case state.New, state.Prepared, state.Copying, state.Indexing:
		default:
			return r, nil
		}
		where := farness(r)
		if !a.Patient || !r.Alive {
			return r, &fail.Error{Kind: fail.Gate, Problem: "the migration does not follow yet: " + where, Advice: "ask again when it does (`walferry status`), or let the command wait for it (--wait)"}
		}
		if where != told {
			a.step("waiting until it follows: " + where)
			told = where
		}
		if wait.Sleep(ctx, time.Second) != nil {
			return r, state.ErrNotBegun
		}
	}
}

// farness describes how far a migration is that does not follow yet.
func farness(r *state.Record) string {
	switch c := r.Live.Copy; r.Phase {
	case state.Copying:
		text := "it begins to copy"
		if c.Tables > 0 {
			text = fmt.Sprintf("it copies: %d of %d tables, %d of %d MB", c.TablesDone, c.Tables, c.Bytes>>20, c.BytesTotal>>20)
		}
		if !r.Alive {
			text += ", and no migrate is running"
		}
		return text
	case state.Indexing:
		return fmt.Sprintf("indexes of %d of %d tables are there", r.Live.Indexes.TablesDone, r.Live.Indexes.Tables)
	}
	return "it is in phase " + string(r.Phase)
}
