package wayback

import (
	"context"
	"log/slog"
	"time"

	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/wait"
)

// Ahead looks where sequences are, and moves those that are not far enough ahead.
type Ahead interface{ Keep(context.Context) error }

// KeepAhead keeps the sequences of the server that a flow goes to ahead of those of the database, until ctx ends. turn
// is taken for each look: a switch sets the same sequences, and when it is over they are those of the database. tell is told
// why that fails, and with nil that it does not; the flow goes on.
func KeepAhead(ctx context.Context, a Ahead, interval time.Duration, turn chan struct{}, over func() bool, tell func(error)) {
	for failed := 0; ctx.Err() == nil; {
		began := time.Now()
		select {
		case turn <- struct{}{}:
			if over() {
				<-turn
				return
			}
			err := look(ctx, a)
			<-turn
			switch {
			case err == nil:
				failed = 0
				tell(nil)
			case ctx.Err() == nil:
				if failed++; failed > 1 { // a lock was in the way, or a connection lost
					tell(err)
				}
			}
		default: // a switch is under way
		}
		// Servers with many sequences are not to be busy with that.
		wait.Sleep(ctx, max(interval, 20*time.Since(began))) //nolint:errcheck // the loop sees that ctx has ended
	}
}

// Behind tells why sequences are not kept ahead.
type Behind struct {
	Sides  sides.Sides // of the flow to the server whose sequences they are
	Live   *status.Live
	Logger *slog.Logger

	why string
}

// Tell tells it when that has changed; with nil they are.
func (b *Behind) Tell(err error) {
	why := ""
	if err != nil {
		why = b.Sides.Reword(err.Error())
	}
	if was := b.why; was != why && why != "" {
		b.Logger.Warn("sequences of the server that follows are not kept ahead: "+why, "do", "should it have to be opened by hand, set them first; a switch sets them as always")
	} else if was != why {
		b.Logger.Info("sequences of the server that follows are kept ahead again")
	}
	b.why = why
	b.Live.Set(func(st *status.Status) {
		if st.Back != nil && st.Back.Sequences != why {
			now := *st.Back
			now.Sequences = why
			st.Back = &now
		}
	})
}

// look is not given up halfway for the end of the flow: the connections are everybody's.
func look(ctx context.Context, a Ahead) error {
	ctx, end := wait.Lingering(ctx)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return a.Keep(ctx)
}
