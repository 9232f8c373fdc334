package wayback

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/opening"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// End is a way back that is given up, while the server that it comes from is the database.
type End struct {
	Flow    *flow.Flow
	Store   *state.Store // of its record
	Opening *opening.Target
	Keys    *schema.Pending // that are put aside on the server that it goes to
	Logger  *slog.Logger
}

// GiveUp gives it up, and has that recorded by finished. The new server has nothing of it any more; the old one may be gone.
func (e *End) GiveUp(ctx context.Context, finished func(context.Context) error) error {
	if err := e.Flow.From.Link.Do(ctx, func(conn *pgx.Conn) error { return flow.DisarmFrom(ctx, conn, e.Flow.Name) }); err != nil {
		return err
	}
	say := func(text string) { e.Logger.Info("the old server: " + text) }
	err := wait.Within(ctx, 10*time.Second, func(ctx context.Context) error {
		if e.Flow.To.Link == nil {
			return errors.New("it cannot be reached")
		}
		if err := e.Flow.To.Link.Do(ctx, func(conn *pgx.Conn) error { return flow.DisarmTo(ctx, conn, e.Flow.Name) }); err != nil {
			return err
		}
		if _, err := e.Opening.EnableRest(ctx, 5*time.Second); err != nil {
			return err
		}
		return e.Keys.PutBack(ctx, say)
	})
	// The record goes last: without it nobody knows that the way back was given up, not lost.
	if err := finished(ctx); err != nil {
		return err
	}
	if err == nil {
		err = e.Keys.Validate(ctx, say)
	}
	if err == nil {
		err = wait.Within(ctx, 10*time.Second, e.Store.Forget)
	}
	if err != nil {
		e.Logger.Warn("the old server still has something of the way back, until cleanup", "reason", err)
	}
	return nil
}
