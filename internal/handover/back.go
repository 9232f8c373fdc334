package handover

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/wait"
)

// running is the flow back of a run.
type running struct {
	mu     sync.Mutex
	now    *flow.Running // nil: it does not run now
	ended  chan struct{} // closed when that has ended
	begins decoder.LSN   // 0: it is only read
}

// Runs notes the flow back as it runs now; nil: it does not.
func (g *Groups) Runs(back *flow.Running) {
	g.back.mu.Lock()
	defer g.back.mu.Unlock()
	if g.back.now != nil {
		close(g.back.ended)
	}
	g.back.now, g.back.ended = back, make(chan struct{})
}

// Running returns it.
func (g *Groups) Running() *flow.Running {
	g.back.mu.Lock()
	defer g.back.mu.Unlock()
	return g.back.now
}

// Begun notes from which position on the flow back brings what is written; 0: it is only read.
func (g *Groups) Begun(at decoder.LSN) {
	g.back.mu.Lock()
	defer g.back.mu.Unlock()
	g.back.begins = at
}

// Start is flow.Followed.Start of the flow back.
func (g *Groups) Start() decoder.LSN {
	g.back.mu.Lock()
	defer g.back.mu.Unlock()
	if g.back.begins == 0 {
		return applier.NotOpen
	}
	return g.back.begins
}

// errNotBack says that what is asked for needs the flow back.
var errNotBack = &fail.Error{Kind: fail.Gate, Problem: "the flow back does not follow", Advice: "`walferry status` says why; ask again when it does"}

// await returns the flow back, which may have begun to run just now, and a context that ends with it, with errNotBack as its cause.
func (g *Groups) await(ctx context.Context) (back *flow.Running, while context.Context, done func(), err error) {
	soon, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var ended chan struct{}
	err = wait.Until(soon, wait.Every(50*time.Millisecond), func() (bool, error) {
		g.back.mu.Lock()
		defer g.back.mu.Unlock()
		back, ended = g.back.now, g.back.ended
		return back != nil, nil
	})
	if err != nil {
		if ctx.Err() == nil {
			err = errNotBack
		}
		return nil, nil, nil, err
	}
	while, stop := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-ended:
			stop(errNotBack)
		case <-while.Done():
		}
	}()
	return back, while, func() { stop(nil) }, nil
}

// position is the one of the new server from which on the flow back brings what is written there. Nobody may have written before.
func (g *Groups) position(ctx context.Context, back *flow.Running) (at decoder.LSN, err error) {
	if err := g.Back.From.Link.Row(ctx, `select pg_current_wal_insert_lsn()::text`, nil, &at); err != nil {
		return 0, fmt.Errorf("read the position: %w", err)
	}
	if _, err := back.Canary(ctx); err != nil { // what committed before has been seen then
		return 0, err
	}
	if c := back.LeftOut(); c.First != nil {
		return 0, &fail.Error{
			Kind: fail.Gate, Problem: fmt.Sprintf("somebody has written to the new server: %s", c.First),
			Advice: "find out who writes there already, and undo what was written; `walferry verify` names the rows",
		}
	}
	return at, nil
}
