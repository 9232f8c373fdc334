package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNoRunner is returned by what needs a running migrate.
var ErrNoRunner = &GateError{
	Problem: "no migrate is running for this migration",
	Advice:  "start `walferry migrate`, which resumes it, and ask again",
}

// errUnanswered is that of a request whose runner has ended.
var errUnanswered = &RunError{Problem: "the running migrate ended before it answered", Advice: "look at its output and at `walferry status`"}

// loadAlive is load that gives a runner which has lost its lock, as after a restart of the
// target, the time to take it again.
func (s *store) loadAlive(ctx context.Context) (*record, error) {
	for end := time.Now().Add(alivePatience); ; {
		r, err := s.load(ctx)
		if err != nil || r == nil || r.Alive || !r.Fresh || time.Now().After(end) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// alivePatience is longer than a runner takes to find that its lock is gone.
const alivePatience = 8 * time.Second

// ask puts a request to the running migrate and waits for its answer. onStep gets
// each line that the runner reports meanwhile. When ctx ends, a cutover is taken back, and the
// answer is waited for all the same: what was done by then is undone, or it was sealed.
func (s *store) ask(ctx context.Context, kind string, args requestArgs, onStep func(string)) (a answer, err error) {
	r, err := s.loadAlive(ctx)
	if err != nil {
		return a, err
	}
	if r == nil {
		return a, s.noMigration(ctx)
	}
	if !r.Alive {
		return a, ErrNoRunner
	}
	text, err := json.Marshal(args)
	if err != nil {
		return a, err
	}
	q := &asking{store: s, request: &request{Kind: kind, Args: args}, onStep: onStep}
	// Not under ctx: whoever is interrupted must know whether he has asked. A request is only
	// taken once its asker has looked at it, so that one whose writing came to no answer is not.
	err = within(ctx, 10*time.Second, func(ctx context.Context) error {
		return s.Row(ctx, `
insert into walferry.request (migration, kind, args, requested_at, seen_at) select $1, $2, $3::text::jsonb, now, now from clock_timestamp() now returning id`, []any{s.name, kind, string(text)}, &q.id)
	})
	if err != nil {
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
	store   *store
	id      int64
	request *request
	onStep  func(string)
	shown   int // steps that were told
}

// wait returns the answer, or the cause of ctx when that has ended.
func (q *asking) wait(ctx context.Context) (a answer, err error) {
	s := q.store
	for silent := 0; ; {
		select {
		case <-ctx.Done():
			return a, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
		var steps []string
		var ok *bool
		var raw []byte
		err := s.Do(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `update walferry.request set seen_at = clock_timestamp() where id = $1 returning steps, ok, answer::text`, q.id).Scan(&steps, &ok, &raw)
		})
		if ctx.Err() != nil {
			return a, context.Cause(ctx)
		}
		if err != nil {
			if silent++; silent > 100 {
				return a, fmt.Errorf("wait for the running migrate: %w", err)
			}
			continue
		}
		for ; q.shown < len(steps); q.shown++ {
			if q.onStep != nil {
				q.onStep(steps[q.shown])
			}
		}
		if ok != nil {
			return readAnswer(*ok, raw)
		}
		r, err := s.load(ctx)
		if err == nil && (r == nil || !r.Alive && !r.Fresh) {
			if silent++; silent > 20 {
				return s.unanswered(ctx, q.id, q.request)
			}
		} else {
			silent = 0
		}
	}
}

// readAnswer is an answer as it was written.
func readAnswer(ok bool, raw []byte) (a answer, err error) {
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &a); err != nil {
			return a, err
		}
	}
	switch {
	case ok:
		return a, nil
	case a.Gate:
		return a, &GateError{Problem: a.Error, Advice: a.Hint}
	}
	return a, &RunError{Problem: a.Error, Advice: a.Hint}
}

// takeBackPatience is how long who has taken a cutover back waits to hear what has become of it;
// undoing has a minute.
const takeBackPatience = 90 * time.Second

// takeBack takes a request back whose asker has been told to end, and says what has become of it.
func (q *asking) takeBack(ctx context.Context, why error) (a answer, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackPatience)
	defer cancel()
	var begun bool
	err = q.store.Row(ctx, `
update walferry.request set withdrawn_at = clock_timestamp(),
       answered_at = case when taken_at is null then coalesce(answered_at, clock_timestamp()) else answered_at end,
       ok = case when taken_at is null then coalesce(ok, false) else ok end
 where id = $1 returning taken_at is not null`, []any{q.id}, &begun)
	switch {
	case err != nil:
		return a, errors.Join(why, fmt.Errorf("take the request back: %w", err))
	case q.request.Kind != "cutover":
		return a, why
	case !begun:
		return a, errNotBegun
	}
	if q.onStep != nil {
		q.onStep("taking it back, unless it is sealed already")
	}
	return q.wait(ctx)
}

// errNotBegun is what an asker is told that was interrupted before anything was done.
var errNotBegun = &GateError{"the cutover was taken back before it began: everything is as before", "ask again when it is wanted"}

// errWithdrawn ends a cutover whose asker has taken it back.
var errWithdrawn = &GateError{"the cutover was taken back by who asked for it", "ask again when it is wanted"}

// whileWanted is ctx until a request is taken back.
func (s *store) whileWanted(ctx context.Context, id int64) (wanted context.Context, stop func()) {
	wanted, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for wanted.Err() == nil {
			var withdrawn bool
			err := s.Row(wanted, `select withdrawn_at is not null from walferry.request where id = $1`, []any{id}, &withdrawn)
			if err == nil && withdrawn {
				cancel(errWithdrawn)
			}
			waitTick(wanted, tick)
		}
	}()
	return wanted, func() {
		cancel(nil)
		<-done
	}
}
