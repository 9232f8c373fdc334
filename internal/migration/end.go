package migration

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/cleanup"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// Cutover asks the running migrate to cut over and waits for it. onStep gets each
// step as it is reported. *GateError: nothing was changed, or everything is as before. With a
// result and another error it is done, and they say what is known. One that was done before is no error: it is what was asked for.
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
			return nil, &GateError{Problem: "the cutover is done already", Advice: "see `walferry status`"}
		}
		if r.Phase == Finished {
			result, err := cutover.AwaitResult(ctx, s, keys, onStep)
			if err != nil {
				return nil, err
			}
			result.Already = true
			return result, result.Verdict()
		}
		if err := proveSource(ctx, c, r); err != nil && ctx.Err() != nil {
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

// measured is what an answer says of a cutover, or nil.
func measured(a state.Answer) (result *CutoverResult, err error) {
	if len(a.Cutover) == 0 {
		return nil, nil
	}
	return result, json.Unmarshal(a.Cutover, &result)
}

// awaitFollowing reads the record of a migration that is to be cut over. One that does not follow
// yet is a gate, with how far it is: nothing is switched hours after somebody has asked for it. With
// patient it is waited for.
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
			return r, &GateError{Problem: "the migration does not follow yet: " + where, Advice: "ask again when it does (`walferry status`), or let the command wait for it (--wait)"}
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

// farness says how far a migration is that does not follow yet.
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

// Abort gives a migration up: the source is un-fenced and has nothing of it any
// more, which a query has to say: otherwise the error is a *LeftError. The target keeps its data, marked unfit. A running migrate is told to end.
func Abort(ctx context.Context, c Config) error {
	c, err := c.fill()
	if err != nil {
		return err
	}
	r, closeAll, err := openEnds(ctx, c)
	if err != nil {
		return err
	}
	defer closeAll()
	// Before the lock for those who are not to wait for it, and under it for what holds:
	// meanwhile a cutover may have come to its end.
	if err := r.mayAbort(ctx); err != nil {
		return err
	}
	if r.rec.Alive && r.rec.Phase == Following {
		// Where it has ended meanwhile, what is recorded under the lock says what can be done.
		if _, err := r.store.Mailbox().Ask(ctx, "abort", state.Args{}, nil); err != nil && !errors.Is(err, state.ErrUnanswered) && !errors.Is(err, state.ErrNoRunner) {
			return err
		}
		if r.lock, err = r.store.Lock(ctx, c.Target, 30*time.Second); err != nil {
			return fmt.Errorf("wait for the running migrate to end: %w", err)
		}
	} else if r.lock, err = r.store.Lock(ctx, c.Target, state.LockPatience); err != nil {
		var held *GateError
		if errors.As(err, &held) {
			held.Advice = "stop it first (SIGINT), then abort"
		}
		return err
	}
	defer r.lock.Close(ctx)
	if err := r.store.Take(ctx); err != nil {
		return err
	}
	if r.rec, err = r.store.Load(ctx); err != nil {
		return err
	}
	if err := r.mayAbort(ctx); err != nil {
		return err
	}
	if err := r.dropSource(ctx); err != nil {
		return err
	}
	err = r.store.SetUnfenced(ctx)
	if err != nil {
		return err
	}
	if err := r.store.SetPhase(ctx, Aborted); err != nil {
		return err
	}
	left, err := leftovers(ctx, r.source, "source", c.Name, "")
	if err != nil {
		return err
	}
	return NewLeftError(left)
}

// mayAbort tells why the migration, as it was read last, cannot be given up.
func (r *runner) mayAbort(ctx context.Context) error {
	switch {
	case r.rec == nil:
		return r.store.Missing(ctx)
	case r.rec.Phase == Finished:
		return &GateError{Problem: "the cutover is done: the target is the database now", Advice: "`walferry cleanup` removes what walferry left"}
	}
	return nil
}

// openEnds makes a runner that does not run, for abort, cleanup and verify. The source is
// the one of the migration that the target knows: nothing is done to another.
func openEnds(ctx context.Context, c Config) (*runner, func(), error) {
	r := &runner{c: c}
	target, err := linkTarget(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	r.target, r.store = target, home(target, c)
	closeAll := func() {
		target.Close()
		if r.source != nil {
			r.source.Close()
		}
	}
	if r.rec, err = r.store.Load(ctx); err == nil {
		if r.source, err = linkSource(ctx, c); err != nil && r.rec != nil && r.rec.Phase == Finished {
			err = &sourceGoneError{err}
		}
	}
	if err == nil && r.rec != nil {
		err = proveSource(ctx, c, r.rec)
	}
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	r.flow, r.tables = r.newFlow(), r.migrated()
	if r.rec != nil {
		r.tables.Remember(r.rec.Tables)
	}
	return r, closeAll, nil
}

// Cleanup removes everything of a migration that has ended, fence included, from
// both servers, and returns what a query then still finds: nothing, but for what other
// migrations need that live there; see NewLeftError. It refuses while the migration is neither finished nor
// aborted.
func Cleanup(ctx context.Context, c Config) ([]Left, error) {
	c, err := c.fill()
	if err != nil {
		return nil, err
	}
	r, closeAll, err := openEnds(ctx, c)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	if err := r.mayCleanUp(); err != nil {
		return nil, err
	}
	sharedOrigin := false
	if r.rec != nil {
		if r.lock, err = r.store.Lock(ctx, c.Target, state.LockPatience); err != nil {
			return nil, err
		}
		defer r.lock.Close(ctx)
		if r.rec, err = r.store.Load(ctx); err != nil { // again, under the lock
			return nil, err
		}
		if err := r.mayCleanUp(); err != nil {
			return nil, err
		}
	}
	var left []Left
	if r.rec != nil {
		// What is held belongs to the target's schema, and is forgotten with the record.
		if sql, err := r.closed().EnableRest(ctx, 10*time.Second); len(sql) > 0 {
			return nil, &GateError{Problem: err.Error() + "; nothing was removed", Advice: "run on the target: " + strings.Join(sql, "; ") + "; then clean up again"}
		} else if err != nil {
			return nil, err
		}
		late, err := r.definitions().Pending().Left(ctx)
		if err != nil {
			return nil, err
		}
		for _, sql := range late {
			left = append(left, Left{On: "target", Object: "a foreign key that is not validated; by hand: " + sql})
		}
		if err := r.dropSource(ctx); err != nil {
			return nil, err
		}
		err = r.target.Do(ctx, func(conn *pgx.Conn) (err error) {
			sharedOrigin, err = cleanup.Target(ctx, conn, c.Name)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, side := range []struct {
		on                 string
		l                  *session.Link
		asSource, asTarget string
	}{{"source", r.source, c.Name, ""}, {"target", r.target, "", c.Name}} {
		objects, err := leftovers(ctx, side.l, side.on, side.asSource, side.asTarget)
		if err != nil {
			return nil, err
		}
		left = append(left, objects...)
	}
	if sharedOrigin {
		left = slices.DeleteFunc(left, func(l Left) bool { return l.Object == "replication origin walferry_"+c.Name })
	}
	return left, nil
}

// mayCleanUp tells why the migration, as it was read last, must keep what it has.
func (r *runner) mayCleanUp() error {
	if r.rec != nil && r.rec.Phase != Finished && r.rec.Phase != Aborted {
		return &GateError{Problem: fmt.Sprintf("migration %q is in phase %s", r.c.Name, r.rec.Phase), Advice: "cut over or abort first"}
	}
	return nil
}

// Left is something of walferry that a server still has; LeftError says that something of a
// migration that has ended could not be removed.
type (
	Left      = cleanup.Left
	LeftError = cleanup.LeftError
)

// NewLeftError is nil where everything that is left belongs to other migrations.
func NewLeftError(left []Left) error { return cleanup.NewLeftError(left) }

func leftovers(ctx context.Context, l *session.Link, on, asSource, asTarget string) (left []Left, err error) {
	err = l.Do(ctx, func(conn *pgx.Conn) (err error) {
		left, err = cleanup.Leftovers(ctx, conn, on, asSource, asTarget)
		return err
	})
	return left, err
}
