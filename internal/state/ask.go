package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/wait"
)

// Ask puts a request to the running migrate and waits for its answer. onStep gets each line that
// the runner reports meanwhile. When ctx ends, a cutover is taken back, and the answer is waited
// for all the same: what was done by then is undone, or it was sealed.
func (m Mailbox) Ask(ctx context.Context, kind string, args Args, onStep func(string)) (a Answer, err error) {
	r, err := m.store.LoadAlive(ctx)
	if err != nil {
		return a, err
	}
	if r == nil {
		return a, m.store.Missing(ctx)
	}
	if !r.Alive {
		return a, ErrNoRunner
	}
	text, err := json.Marshal(args)
	if err != nil {
		return a, err
	}
	q := &asking{box: m, request: &Request{Kind: kind, Args: args}, onStep: onStep}
	if err := q.write(ctx, string(text)); err != nil {
		return a, fmt.Errorf("ask the running migrate: %w", err)
	}
	a, err = q.wait(ctx)
	if err != nil && ctx.Err() != nil {
		return q.takeBack(ctx, err)
	}
	return a, err
}

// asking is a request that waits for its answer.
type asking struct {
	box     Mailbox
	request *Request
	onStep  func(string)
	shown   int // steps that were reported
}

// write is not under ctx: an interrupted caller must know whether it has asked. A request is only
// taken once its asker has looked at it, so that one whose writing was never answered is not.
func (q *asking) write(ctx context.Context, args string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return q.box.store.home.Row(ctx, `
insert into walferry.request (migration, kind, args, requested_at, seen_at) select $1, $2, $3::text::jsonb, now, now from clock_timestamp() now returning id`,
		[]any{q.box.store.name, q.request.Kind, args}, &q.request.ID)
}

// look tells the runner that the asker is alive, and returns all that the asker has to know: what
// was reported, the answer, and whether there is still a runner to give it.
const look = `
update walferry.request r set seen_at = clock_timestamp() where id = $1
returning steps, ok, answer::text, exists(select from walferry.migration where name = r.migration and (` + fresh + ` or %s)), ` + ahead

// ahead is what the request waits for that the runner has not taken: the oldest one before it, as an
// array, and what the runner says of itself.
const ahead = `
       case when r.taken_at is null then (select array[r.kind, coalesce(r.args ->> 'dry_run', 'false'), extract(epoch from clock_timestamp() - r.requested_at)::int::text]
              from walferry.request r where r.migration = $2 and r.id < $1 and r.kind <> '` + announced + `' and ` + waiting + ` order by r.id limit 1) end,
       case when r.taken_at is null then (select coalesce(live ->> 'note', '') from walferry.migration where name = r.migration) end`

// wait returns the answer, or the cause of ctx when that has ended.
func (q *asking) wait(ctx context.Context) (a Answer, err error) {
	sql := fmt.Sprintf(look, fmt.Sprintf(locked, "r.migration"))
	for failed, silent, behind := 0, 0, 0; ; {
		if err := wait.Sleep(ctx, lookInterval); err != nil {
			return a, err
		}
		var steps []string
		var ok *bool
		var raw []byte
		var runs bool
		var before []string
		var note *string
		err := q.box.store.home.Row(ctx, sql, []any{q.request.ID, q.box.store.name}, &steps, &ok, &raw, &runs, &before, &note)
		if ctx.Err() != nil {
			return a, context.Cause(ctx)
		}
		if err != nil {
			if failed++; failed > 100 {
				return a, fmt.Errorf("wait for the running migrate: %w", err)
			}
			continue
		}
		failed = 0
		for ; q.shown < len(steps); q.shown++ {
			if q.onStep != nil {
				q.onStep(steps[q.shown])
			}
		}
		// Most of what is before it is done in a moment.
		if text := queued(before, note); text != "" {
			if behind++; behind == 5 && q.onStep != nil {
				q.onStep(text)
			}
		}
		if ok != nil {
			return readAnswer(*ok, raw)
		}
		if runs {
			silent = 0
		} else if silent++; silent > 20 {
			return q.box.unanswered(ctx, q.request)
		}
	}
}

// queued says what a request waits for that the runner has not taken; empty: nothing that is known.
func queued(before []string, note *string) string {
	if len(before) == 3 {
		o := Open{Kind: before[0], DryRun: before[1] == "true"}
		return fmt.Sprintf("waiting for the %s that was asked for %s s ago", o.What(), before[2])
	}
	if note != nil && strings.HasPrefix(*note, HeldFor) {
		return "waiting: the applier is " + *note
	}
	return ""
}

// HeldFor begins the note of a runner whose applier is held.
const HeldFor = "held for "

// readAnswer reads an answer as it was written.
func readAnswer(ok bool, raw []byte) (a Answer, err error) {
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &a); err != nil {
			return a, err
		}
	}
	if ok {
		return a, nil
	}
	return a, a.err()
}

// takeBackPatience is how long a caller that has taken a cutover back waits to hear the outcome;
// undoing has a minute.
const takeBackPatience = 90 * time.Second

// takeBack takes back a request whose asker has been told to end, and reports the outcome.
func (q *asking) takeBack(ctx context.Context, why error) (a Answer, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackPatience)
	defer cancel()
	var begun bool
	err = q.box.store.home.Row(ctx, `
update walferry.request set withdrawn_at = clock_timestamp(),
       answered_at = case when taken_at is null then coalesce(answered_at, clock_timestamp()) else answered_at end,
       ok = case when taken_at is null then coalesce(ok, false) else ok end
 where id = $1 returning taken_at is not null`, []any{q.request.ID}, &begun)
	switch {
	case err != nil:
		return a, errors.Join(why, fmt.Errorf("take the request back: %w", err))
	case !q.request.switches() && q.request.Kind != "finish":
		return a, why
	case !begun:
		return a, q.request.notBegun()
	}
	if q.onStep != nil && q.request.switches() {
		q.onStep("taking it back, unless it is sealed already")
	}
	return q.wait(ctx)
}

// unanswered is the outcome of a request whose runner has ended without an answer: it is taken
// back, so that no later run carries it out.
func (m Mailbox) unanswered(ctx context.Context, q *Request) (a Answer, err error) {
	if q.Kind == "abort" {
		return a, ErrUnanswered
	}
	var begun bool
	err = m.store.home.Row(ctx, `update walferry.request set answered_at = coalesce(answered_at, clock_timestamp()), ok = coalesce(ok, false) where id = $1 returning steps <> '{}'`,
		[]any{q.ID}, &begun)
	if err != nil {
		return a, fmt.Errorf("take the request back: %w", err)
	}
	r, err := m.store.Load(ctx)
	if err != nil || r == nil {
		return a, ErrUnanswered
	}
	switch {
	case q.Args.DryRun:
	case q.Kind == "cutover" && (r.Phase == Finished || r.Phase == Switched), q.Kind == "fallback" && r.Phase == Following:
		return a, ErrDone
	case q.Kind == "finish" && r.Phase == Finished:
		return a, nil
	}
	if begun {
		return a, ErrUnanswered
	}
	a = answerAfter(q, r.Phase, nil)
	return a, a.err()
}

// Outcome reads into a value what a cutover that is done has measured, for whoever asks afterwards.
// While the migrate that has cut over still compares, it is waited for, unless it goes on.
func (m Mailbox) Outcome(ctx context.Context, onStep func(string), into any) error {
	for told := false; ; told = true {
		r, err := m.store.Load(ctx)
		if err != nil {
			return err
		}
		if r == nil || r.Phase != Finished && r.Phase != Switched {
			return errors.New("the migration is gone")
		}
		if !r.Alive || r.Phase == Switched {
			break
		}
		if !told && onStep != nil {
			onStep("done; waiting for the migrate that has cut over to end")
		}
		if err := wait.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	found, err := m.store.Values().Get(ctx, Result, into)
	if err == nil && !found {
		err = &fail.Error{Kind: fail.Gate, Problem: "the new server is the database", Advice: "see `walferry status`"}
	}
	return err
}
