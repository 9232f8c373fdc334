package migration

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
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// Cutover asks the running migrate to cut over and waits for it. onStep gets each step as it is
// reported. An error of kind fail.Gate: nothing was changed, or everything is as before. With a
// result and another error the cutover is done, and they say what is known. One that was done
// before is not an error: it is what was asked for.
func Cutover(ctx context.Context, c Config, onStep func(string)) (*CutoverResult, error) {
	c, err := c.fill()
	if err != nil {
		return nil, err
	}
	target, err := session.OpenLink(ctx, session.Config{DSN: c.Target, Application: c.Name + " cutover"}, nil)
	if err != nil && ctx.Err() != nil {
		err = state.ErrNotBegun
	}
	if err != nil {
		return nil, err
	}
	defer target.Close()
	s := home(target, c)
	keys := &schema.Pending{Link: target, Store: s}
	r, err := awaitFollowing(ctx, s, c.Cut.Wait, onStep)
	if err != nil && ctx.Err() != nil {
		err = state.ErrNotBegun
	}
	if err != nil {
		return nil, err
	}
	if r != nil {
		if r.Phase == Aborted {
			return nil, aborted(c.Name)
		}
		if r.Phase == Finished && c.Cut.DryRun {
			return nil, &fail.Error{Kind: fail.Gate, Problem: "the cutover is done already", Advice: "see `walferry status`"}
		}
		if r.Phase == Finished {
			result, err := cutover.AwaitResult(ctx, s, keys, onStep)
			if err != nil {
				return nil, err
			}
			result.Already = true
			return result, result.Verdict()
		}
		if err := checkSource(ctx, c, r); err != nil && ctx.Err() != nil {
			return nil, state.ErrNotBegun
		} else if err != nil {
			return nil, err
		}
	}
	a, err := s.Mailbox().Ask(ctx, "cutover", state.Args{
		Timeout: c.Cut.Timeout.Seconds(), MaxLag: c.Cut.MaxLag.Seconds(), DryRun: c.Cut.DryRun, NoFence: c.Cut.NoFence, Without: c.Cut.Without,
		AllowDifferences: c.Cut.AllowDifferences,
	}, onStep)
	var result *CutoverResult
	if errors.Is(err, state.ErrDone) {
		result, err = cutover.AwaitResult(ctx, s, keys, nil)
	} else {
		var unread error
		result, unread = measured(a)
		err = cmp.Or(err, unread)
	}
	if err == nil && result != nil {
		err = result.Verdict()
	}
	return result, err
}

// Fallback asks the running migrate to switch back to the old server, and waits for it, as Cutover does.
func Fallback(ctx context.Context, c Config, onStep func(string)) (*CutoverResult, error) {
	a, err := ask(ctx, c, "fallback", state.Args{
		Timeout: c.Cut.Timeout.Seconds(), MaxLag: c.Cut.MaxLag.Seconds(), DryRun: c.Cut.DryRun, NoFence: c.Cut.NoFence, Without: c.Cut.Without,
		AllowDifferences: c.Cut.AllowDifferences,
	}, onStep)
	result, unread := measured(a)
	err = cmp.Or(err, unread)
	if err == nil && result != nil {
		err = result.Verdict()
	}
	return result, err
}

// Finish asks the running migrate to give the way back up, which ends it. Afterwards the migration can be cleaned up.
func Finish(ctx context.Context, c Config) error {
	_, err := ask(ctx, c, "finish", state.Args{}, nil)
	return err
}

// ask asks the running migrate for something.
func ask(ctx context.Context, c Config, kind string, args state.Args, onStep func(string)) (a state.Answer, err error) {
	if c, err = c.fill(); err != nil {
		return a, err
	}
	target, err := session.OpenLink(ctx, session.Config{DSN: c.Target, Application: c.Name + " " + kind}, nil)
	if err != nil {
		return a, err
	}
	defer target.Close()
	return home(target, c).Mailbox().Ask(ctx, kind, args, onStep)
}

// measured returns what an answer reports of a cutover, or nil.
func measured(a state.Answer) (result *CutoverResult, err error) {
	if len(a.Cutover) == 0 {
		return nil, nil
	}
	return result, json.Unmarshal(a.Cutover, &result)
}

// awaitFollowing reads the record of a migration that is to be cut over. If it does not follow yet
// the error is a gate's, with how far it is: nothing is switched hours after somebody has asked for
// it. With patient it is waited for.
func awaitFollowing(ctx context.Context, s *state.Store, patient bool, onStep func(string)) (*state.Record, error) {
	for told := ""; ; {
		r, err := s.LoadAlive(ctx)
		if err != nil || r == nil {
			return r, err
		}
		if !slices.Contains([]Phase{New, Prepared, Copying, Indexing}, r.Phase) {
			return r, nil
		}
		where := farness(r)
		if !patient || !r.Alive {
			return r, &fail.Error{Kind: fail.Gate, Problem: "the migration does not follow yet: " + where, Advice: "ask again when it does (`walferry status`), or let the command wait for it (--wait)"}
		}
		if where != told && onStep != nil {
			onStep("waiting until it follows: " + where)
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
	case Copying:
		text := "it begins to copy"
		if c.Tables > 0 {
			text = fmt.Sprintf("it copies: %d of %d tables, %d of %d MB", c.TablesDone, c.Tables, c.Bytes>>20, c.BytesTotal>>20)
		}
		if !r.Alive {
			text += ", and no migrate is running"
		}
		return text
	case Indexing:
		return fmt.Sprintf("indexes of %d of %d tables are there", r.Live.Indexes.TablesDone, r.Live.Indexes.Tables)
	}
	return "it is in phase " + string(r.Phase)
}
