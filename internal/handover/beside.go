package handover

import (
	"context"

	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/wayback"
)

// Beside is the flow back that runs beside that forth while there are groups.
type Beside struct {
	Groups    *Groups
	Flow      *flow.Flow
	Budget    *wayback.Budget
	Condition *wayback.Condition
	Seen      func(context.Context) (*groups.Seen, error) // of this run
	Watch     func(*groups.Stream) flow.Helper            // shows who writes on the new server
}

// Keep runs the flow back for as long as ctx lasts. What keeps it from the old server interrupts it, and nothing else.
func (b *Beside) Keep(ctx context.Context) {
	for ctx.Err() == nil {
		err := b.run(ctx)
		if ctx.Err() != nil {
			return
		}
		b.Budget.Await(ctx, b.Flow.Heartbeat, wayback.RepairInterval, b.Condition.After(err).State, func(err error) { b.Condition.After(err) })
	}
}

func (b *Beside) run(ctx context.Context) error {
	seen, err := b.Seen(ctx)
	if err != nil {
		return err
	}
	stream := seen.Stream()
	running, err := b.Flow.Start(ctx, flow.Followed{
		Originals: flow.OriginalsOf(b.Groups.Back.Tables.Remembered()), Words: b.Groups.Words(b.Groups.Back), Start: b.Groups.Start(), Saw: stream.Saw,
	})
	if err != nil {
		return err
	}
	defer running.Close(ctx)
	b.Groups.Runs(running)
	defer b.Groups.Runs(nil)
	return running.Run(ctx, func(ctx context.Context, stop context.CancelCauseFunc) {
		b.Budget.Watch(ctx, b.Flow.Heartbeat, stop)
	}, running.KeepWords, b.Watch(stream), func(ctx context.Context, _ context.CancelCauseFunc) {
		wayback.Attend(ctx, b.Flow, running, b.Flow.Heartbeat, func(err error) { b.Condition.After(err) })
	})
}
