package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/cleanup"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/handover"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wayback"
)

// Abort gives a migration up: the source is un-fenced, and has nothing of it any longer according
// to a query; otherwise the error is a *LeftError. The target keeps its data, marked unfit. A
// running migrate is told to end.
func Abort(ctx context.Context, c Config) error {
	c, err := c.Fill()
	if err != nil {
		return err
	}
	e, err := openEnds(ctx, c)
	if err != nil {
		return err
	}
	defer e.close(ctx)
	// Before the lock for a caller that must not wait for it, and under it because only that is
	// certain: meanwhile a cutover may have completed.
	if err := mayAbort(ctx, e.store, e.rec); err != nil {
		return err
	}
	if e.rec.Alive && e.rec.Phase == Following {
		// If it has ended meanwhile, what is recorded says, under the lock, what can be done.
		tell := func(text string) { e.c.Logger.Info("abort: " + text) }
		if _, err := e.store.Mailbox().Ask(ctx, "abort", state.Args{}, tell); err != nil && !errors.Is(err, state.ErrUnanswered) && !errors.Is(err, state.ErrNoRunner) {
			return err
		}
		if err := e.take(ctx, 30*time.Second); err != nil {
			return fmt.Errorf("wait for the running migrate to end: %w", err)
		}
	} else if err := e.take(ctx, state.LockPatience); err != nil {
		held := fail.Find(err, fail.Gate)
		if held != nil {
			held.Advice = "stop it first (SIGINT), then abort"
		}
		return err
	}
	if err := e.store.Take(ctx); err != nil {
		return err
	}
	if e.rec, err = e.store.Load(ctx); err != nil {
		return err
	}
	if err := mayAbort(ctx, e.store, e.rec); err != nil {
		return err
	}
	var late []Left
	var armed state.Armed
	if _, err := e.store.Values().Get(ctx, state.Arming, &armed); err != nil {
		return err
	}
	if armed.Begins != 0 { // there was a fallback
		if late, err = e.turned().unvalidated(ctx, "source"); err != nil {
			return err
		}
	}
	if err := e.ended().RemoveFromSource(ctx); err != nil {
		return err
	}
	if err := e.store.SetUnfenced(ctx); err != nil {
		return err
	}
	if err := e.store.SetPhase(ctx, Aborted); err != nil {
		return err
	}
	left, err := e.ended().LeftOnSource(ctx)
	if err != nil {
		return err
	}
	return NewLeftError(append(late, left...))
}

// mayAbort returns an error if a migration cannot be given up.
func mayAbort(ctx context.Context, store *state.Store, rec *state.Record) error {
	switch {
	case rec == nil:
		return store.Missing(ctx)
	case rec.Phase == Switched:
		return &fail.Error{Kind: fail.Gate, Problem: "the new server is the database now, and the old one follows it", Advice: "`walferry fallback` goes back; `walferry finish` gives the way back up"}
	case rec.Phase == Finished:
		return &fail.Error{Kind: fail.Gate, Problem: "the cutover is done: the target is the database now", Advice: "`walferry cleanup` removes what walferry left"}
	}
	m, err := handover.Load(ctx, store)
	if err == nil && m != nil {
		err = handover.Owned()
	}
	return err
}

// Cleanup removes everything of a migration that has ended, including its fence, from both servers,
// and returns what a query then still finds: nothing but what other migrations there need; see
// NewLeftError. It refuses while the migration is neither finished nor aborted.
func Cleanup(ctx context.Context, c Config) ([]Left, error) {
	c, err := c.Fill()
	if err != nil {
		return nil, err
	}
	e, err := openEnds(ctx, c)
	if err != nil {
		return nil, err
	}
	defer e.close(ctx)
	if e.rec == nil {
		return e.ended().Left(ctx)
	}
	if err := mayCleanUp(e.rec); err != nil {
		return nil, err
	}
	if err := e.take(ctx, state.LockPatience); err != nil {
		return nil, err
	}
	if e.rec, err = e.store.Load(ctx); err != nil { // again, under the lock
		return nil, err
	}
	if e.rec == nil {
		return e.ended().Left(ctx)
	}
	if err := mayCleanUp(e.rec); err != nil {
		return nil, err
	}
	back := e.turned()
	if err := back.recall(ctx); err != nil {
		return nil, err
	}
	var left []Left
	if back.rec != nil { // what is put aside on the old server, as for any flow that goes to a server
		if sql, err := back.opening.EnableRest(ctx, 10*time.Second); err != nil {
			return nil, &fail.Error{Kind: fail.Gate, Problem: "on the old server: " + err.Error() + "; nothing was removed", Advice: "run there: " + strings.Join(sql, "; ") + "; then clean up again"}
		}
		if left, err = back.putKeysBack(ctx, "source"); err != nil {
			return nil, err
		}
	}
	if e.rec.Phase == Aborted { // it may have been the database before
		if _, err := e.putKeysBack(ctx, "target"); err != nil {
			return nil, err
		}
	}
	found, err := e.ended().Remove(ctx)
	return append(left, found...), err
}

// putKeysBack gives the target of e, which is called so, the foreign keys that are put aside there. It returns those that could
// not be validated.
func (e *ends) putKeysBack(ctx context.Context, called string) (left []Left, err error) {
	say := func(text string) { e.c.Logger.Info("cleanup: " + text) }
	keys := e.definitions.Pending()
	if err := keys.PutBack(ctx, say); err != nil {
		return nil, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("foreign keys of the %s cannot be put back: %s; nothing was removed", called, err), Advice: "fix that and clean up again; this query has the statements, to be run there by hand: " + wayback.PutBackSQL(e.name.String())}
	}
	if err := keys.Validate(ctx, say); err != nil && fail.Find(err, fail.Run) == nil { // otherwise they are listed
		return nil, err
	}
	return e.unvalidated(ctx, called)
}

// unvalidated lists the foreign keys of the target of e that are still to be validated.
func (e *ends) unvalidated(ctx context.Context, called string) (left []Left, err error) {
	late, err := e.definitions.Pending().Left(ctx)
	for _, sql := range late {
		left = append(left, Left{On: called, Object: "a foreign key that is not validated; by hand: " + sql})
	}
	return left, err
}

// mayCleanUp returns an error if a migration must keep what it has.
func mayCleanUp(rec *state.Record) error {
	if rec.Phase == Switched {
		return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("the old server follows the new one: migration %q keeps a way back", rec.Name), Advice: "`walferry finish` gives it up"}
	}
	if rec.Phase != Finished && rec.Phase != Aborted {
		return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("migration %q is in phase %s", rec.Name, rec.Phase), Advice: "cut over or abort first"}
	}
	return nil
}

// Left is something of walferry that a server still has; LeftError says that something of a
// migration that has ended could not be removed.
type (
	Left      = cleanup.Left
	LeftError = cleanup.LeftError
)

// NewLeftError returns nil if everything that is left belongs to other migrations.
func NewLeftError(left []Left) error { return cleanup.NewLeftError(left) }
