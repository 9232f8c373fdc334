package migration

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/ask"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Cutover asks the running migrate to cut over and waits for it. onStep gets each step as it is
// reported. An error of kind fail.Gate: nothing was changed, or everything is as before. With a
// result and another error the cutover is done, and they say what is known. One that was done
// before is not an error: it is what was asked for.
func Cutover(ctx context.Context, c Config, onStep func(string)) (result *CutoverResult, err error) {
	return result, asking(ctx, &c, "cutover", onStep, func(a *ask.Asker) error {
		result, err = a.Cutover(ctx, c.Cut.Args())
		return err
	})
}

// Fallback asks the running migrate to switch back to the old server, and waits for it, as Cutover does.
func Fallback(ctx context.Context, c Config, onStep func(string)) (result *CutoverResult, err error) {
	return result, asking(ctx, &c, "fallback", onStep, func(a *ask.Asker) error {
		result, err = a.Fallback(ctx, c.Cut.Args())
		return err
	})
}

// Finish asks the running migrate to give the way back up, which ends it, and waits for that. If none is running it gives the way
// back up itself. Afterwards the migration can be cleaned up. It reports whether the migration was finished before.
func Finish(ctx context.Context, c Config) (already bool, err error) {
	return already, asking(ctx, &c, "finish", nil, func(a *ask.Asker) error {
		already, err = a.Finish(ctx)
		return err
	})
}

// asking connects to the target and has f ask. A caller that is interrupted before has asked for nothing.
func asking(ctx context.Context, c *Config, kind string, onStep func(string), f func(*ask.Asker) error) (err error) {
	if *c, err = c.Fill(); err != nil {
		return err
	}
	application := c.Name + " " + kind
	target, err := session.OpenLink(ctx, session.Config{DSN: c.Target, Application: application}, nil)
	if err != nil && ctx.Err() != nil {
		err = state.ErrNotBegun
	}
	if err != nil {
		return err
	}
	defer target.Close()
	s := home(target, *c)
	return f(&ask.Asker{
		Store: s, Keys: &schema.Pending{Link: target, Store: s}, Patient: c.Cut.Wait, Step: onStep,
		CheckSource: func(ctx context.Context, r *state.Record) error { return checkSource(ctx, *c, r) },
		Back: func(ctx context.Context, look func(*state.Store) error) error {
			old, err := session.OpenLink(ctx, session.Config{DSN: c.Source, Application: application}, nil)
			if err != nil {
				return err
			}
			defer old.Close()
			return look(state.At(old, flow.Name{Migration: c.Name}.Reverse().String()))
		},
		Alone: func(ctx context.Context) error { return finishAlone(ctx, *c) },
	})
}

// finishAlone gives the way back up where no migrate is running. The old server may be gone for good.
func finishAlone(ctx context.Context, c Config) error {
	e, err := openTarget(ctx, c)
	if err != nil {
		return err
	}
	defer e.close(ctx)
	if err := e.take(ctx, state.LockPatience); err != nil {
		return err
	}
	gone := e.openSource(ctx)
	if gone != nil {
		e.assemble()
	}
	if err := e.recall(ctx); err != nil || e.rec == nil || e.rec.Phase != Switched {
		return err // it is finished by now
	}
	back := e.turned()
	if gone == nil {
		if err := checkSource(ctx, c, e.rec); err != nil {
			return err
		}
		if err := back.recall(ctx); err != nil {
			return err
		}
	}
	var fence cutover.State
	err = e.target.Do(ctx, func(conn *pgx.Conn) error {
		fence, err = cutover.Look(ctx, conn, back.name.String())
		return err
	})
	if err != nil {
		return err
	}
	if phase := back.live.Phase(); fence.Raised || phase == Fenced || phase == Drained || phase == Switched {
		return &fail.Error{Kind: fail.Gate, Problem: "a fallback was interrupted: which server is the database is decided by the next migrate", Advice: "start `walferry migrate`, and ask again", Err: gone}
	}
	if err := e.store.Take(ctx); err != nil {
		return err
	}
	return e.endWayBack(ctx, back)
}
