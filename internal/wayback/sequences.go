package wayback

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/wait"
)

// KeepAhead keeps the sequences of the server that a flow goes to ahead of those of the database, until ctx ends. turn
// is taken for each look: a switch sets the same sequences, and when it is over they are those of the database. tell is told
// why that fails, and with nil that it does not; the flow goes on.
func KeepAhead(ctx context.Context, a *cutover.Ahead, interval time.Duration, turn chan struct{}, over func() bool, tell func(error)) {
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

// look is not given up halfway for the end of the flow: the connections are everybody's.
func look(ctx context.Context, a *cutover.Ahead) error {
	ctx, end := wait.Lingering(ctx)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return a.Keep(ctx)
}
