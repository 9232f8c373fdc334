package cleanup

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/opening"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// Ended is a migration that has ended, and its servers.
type Ended struct {
	Name           string
	Source, Target *session.Link
	Opening        *opening.Target
	Keys           *schema.Pending
}

// Remove removes everything of the migration from both servers. It returns what a query then still
// finds there, and what remains to be done by hand. Nothing is removed while triggers of the target
// are still disabled: what they were is known from the record alone.
func (e *Ended) Remove(ctx context.Context) (left []Left, err error) {
	if sql, err := e.Opening.EnableRest(ctx, 10*time.Second); len(sql) > 0 {
		return nil, &fail.Error{Kind: fail.Gate, Problem: err.Error() + "; nothing was removed", Advice: "run on the target: " + strings.Join(sql, "; ") + "; then clean up again"}
	} else if err != nil {
		return nil, err
	}
	late, err := e.Keys.Left(ctx)
	if err != nil {
		return nil, err
	}
	for _, sql := range late {
		left = append(left, Left{On: "target", Object: "a foreign key that is not validated; by hand: " + sql})
	}
	if err := e.RemoveFromSource(ctx); err != nil {
		return nil, err
	}
	sharedOrigin := false
	err = e.Target.Do(ctx, func(conn *pgx.Conn) (err error) {
		sharedOrigin, err = fromTarget(ctx, conn, e.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	found, err := e.Left(ctx)
	if sharedOrigin {
		found = slices.DeleteFunc(found, func(l Left) bool { return l.Object == "replication origin walferry_"+e.Name })
	}
	return append(left, found...), err
}

// RemoveFromSource removes what the source has of the migration, and the schema walferry if no
// other migration uses it.
func (e *Ended) RemoveFromSource(ctx context.Context) error {
	return e.Source.Do(ctx, func(conn *pgx.Conn) error { return fromSource(ctx, conn, e.Name) })
}

// Left lists what both servers have of walferry's, of any migration.
func (e *Ended) Left(ctx context.Context) ([]Left, error) {
	left, err := e.LeftOnSource(ctx)
	if err != nil {
		return nil, err
	}
	there, err := leftOn(ctx, e.Target, "target", "", e.Name)
	if err != nil {
		return nil, err
	}
	return append(left, there...), nil
}

// LeftOnSource lists what of that the source has.
func (e *Ended) LeftOnSource(ctx context.Context) ([]Left, error) {
	return leftOn(ctx, e.Source, "source", e.Name, "")
}

// leftOn lists what a server has that is the source of one migration and the target of another;
// either may be empty.
func leftOn(ctx context.Context, server *session.Link, on, asSource, asTarget string) (left []Left, err error) {
	err = server.Do(ctx, func(conn *pgx.Conn) (err error) {
		left, err = leftovers(ctx, conn, on, asSource, asTarget)
		return err
	})
	return left, err
}

// GiveUp removes everything of a migration from the source, and records why in store, unless another process has taken it over.
func (e *Ended) GiveUp(ctx context.Context, store *state.Store, why string) error {
	return wait.Within(ctx, time.Minute, func(ctx context.Context) error {
		if err := store.Mine(ctx); err != nil {
			return err
		}
		err := e.RemoveFromSource(ctx)
		return errors.Join(err, store.GiveUp(ctx, why))
	})
}
