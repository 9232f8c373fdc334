package wayback

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
)

// BudgetError says that the slot of the way back holds more WAL back on the new server than it may.
type BudgetError struct{ Retained, Limit int64 }

func (e *BudgetError) Error() string {
	return fmt.Sprintf("the way back held back %d MB of WAL on the new server, more than the %d MB of --max-retained-wal-target: it was given up", e.Retained>>20, e.Limit>>20)
}

// Lost reports whether changes will never come that are missing on the old server.
func Lost(err error) bool {
	var unusable *slot.Error
	var budget *BudgetError
	var altered *slot.PublicationError
	return errors.As(err, &budget) || errors.Is(err, identity.ErrReplaced) || errors.As(err, &altered) && !altered.Renamed || errors.As(err, &unusable) && (unusable.Reason == slot.Missing || unusable.Reason == slot.Lost || unusable.Reason == slot.Ahead)
}

// Budget is the WAL that the new server may have to keep for the way back.
type Budget struct {
	flow      *flow.Flow
	limit     int64
	retention *flow.Retention
	seen      func(flow.Retained)
	log       *slog.Logger
}

// NewBudget returns the budget of a flow. limit is in bytes; with 0 there is none. seen is told what every look has found.
func NewBudget(f *flow.Flow, limit int64, seen func(flow.Retained), log *slog.Logger) *Budget {
	return &Budget{f, limit, f.Retention(limit), seen, log}
}

// Watch looks at each interval. Where the slot holds back too much it stops the flow and gives it up.
func (b *Budget) Watch(ctx context.Context, interval time.Duration, stop context.CancelCauseFunc) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ; ctx.Err() == nil; wait.Tick(ctx, tick) {
		if err := b.over(ctx); err != nil {
			stop(err) // before the stream finds that its slot is gone
			b.Drop(ctx)
			return
		}
	}
}

// Keep gives the way back up, and returns a *BudgetError, if its slot holds back too much.
func (b *Budget) Keep(ctx context.Context) error {
	err := b.over(ctx)
	if err != nil {
		b.Drop(ctx)
	}
	return err
}

// Await waits for some intervals, until a way back that does not follow is to be tried again. Meanwhile it gives it up, and tells so, if its slot holds back
// too much. One that is lost holds nothing back any more.
func (b *Budget) Await(ctx context.Context, interval time.Duration, intervals int, now state.WayBackState, tell func(error)) {
	if now == state.BackLost {
		b.Drop(ctx)
	}
	for n := 0; n < intervals && wait.Sleep(ctx, interval) == nil; n++ {
		if now == state.BackLost {
			continue
		}
		if err := b.Keep(ctx); err != nil {
			tell(err)
			now = state.BackLost
		}
	}
}

// over returns a *BudgetError if the slot holds back too much.
func (b *Budget) over(ctx context.Context) error {
	now, ok, err := b.retention.Look(ctx)
	if err != nil || !ok {
		return nil //nolint:nilerr // the next look is soon
	}
	b.seen(now)
	if b.limit <= 0 || now.Bytes < b.limit {
		return nil
	}
	return &BudgetError{now.Bytes, b.limit}
}

// Drop drops the slot of a way back that is given up, or lost: the new server must not suffer for it. Nothing happens if it is gone.
func (b *Budget) Drop(ctx context.Context) {
	if err := wait.Within(ctx, time.Minute, func(ctx context.Context) error {
		return b.flow.From.Link.Do(ctx, func(conn *pgx.Conn) error { return slot.Drop(ctx, conn, b.flow.Name.Source().Slot) })
	}); err != nil {
		b.log.Error("drop the slot of the way back, which holds back WAL on the new server", "error", err)
	}
}
