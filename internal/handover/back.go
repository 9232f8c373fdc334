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
	begins decoder.LSN   // 0: it is only read
}

// Runs notes the flow back as it runs now; nil: it does not.
func (g *Groups) Runs(back *flow.Running) {
	g.back.mu.Lock()
	defer g.back.mu.Unlock()
	g.back.now = back
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

// await returns the flow back, which may have begun to run just now.
func (g *Groups) await(ctx context.Context) (back *flow.Running, err error) {
	soon, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = wait.Until(soon, wait.Every(50*time.Millisecond), func() (bool, error) {
		back = g.Running()
		return back != nil, nil
	})
	if err != nil && ctx.Err() == nil {
		err = &fail.Error{Kind: fail.Gate, Problem: "the flow back does not follow", Advice: "`walferry status` says why; ask again when it does"}
	}
	return back, err
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
