package applier

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/walferry/walferry/decoder"
)

var errPausing = errors.New("pause: another Pause is waiting")

// gate stands between transactions. Closed, it lets through only those whose commit record starts
// before a position.
type gate struct {
	mu      sync.Mutex
	closed  bool
	at      decoder.LSN   // lets through what is before; 0: nothing
	waiting *pause        // the Pause that waits, if any
	changed chan struct{} // of capacity 1: makes Run look again
}

// pause is a call of Pause that waits for Run to reach its position.
type pause struct {
	held    bool          // the gate was already closed
	done    chan struct{} // closed when the fields below are set
	applied decoder.LSN
	err     error
}

func newGate() gate { return gate{changed: make(chan struct{}, 1)} }

// Pause makes Run stop between two transactions, once exactly the transactions with CommitLSN < at
// are applied, and returns the position. A position of 0 means the next boundary. Run applies
// nothing until [Applier.Resume] or a Pause at a later position; the source waits meanwhile, and
// nothing is lost.
//
// Pause waits for a transaction or position at or after at, which shows that all before it have
// arrived. It fails if a later one has been applied already, and if ctx ends first; then Run
// continues, or stays paused if it was before. Pause waits through retries of Run, and for the next
// Run if none is active. There can be only one Pause at a time.
func (a *Applier) Pause(ctx context.Context, at decoder.LSN) (decoder.LSN, error) {
	g := &a.gate
	g.mu.Lock()
	if g.waiting != nil {
		g.mu.Unlock()
		return 0, errPausing
	}
	p := &pause{held: g.closed, done: make(chan struct{})}
	g.waiting, g.closed, g.at = p, true, at
	g.notify()
	g.mu.Unlock()

	select {
	case <-p.done:
	case <-ctx.Done():
		g.mu.Lock()
		if g.waiting == p {
			g.fail(fmt.Errorf("pause at %s: %w", at, context.Cause(ctx)))
		}
		g.mu.Unlock()
		<-p.done
	}
	return p.applied, p.err
}

// Resume ends a Pause. Without one it does nothing.
func (a *Applier) Resume() {
	g := &a.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting != nil {
		g.fail(errors.New("pause: resumed before it was reached"))
	}
	g.closed, g.at = false, 0
	g.notify()
}

// holds reports whether Run must wait at this boundary: applied is where the target is, last the
// CommitLSN of the last transaction applied (0: none by this Applier), head what would come next,
// if it is known.
func (g *gate) holds(applied, last decoder.LSN, head *decoder.Tx) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		return false
	}
	switch {
	case g.at == 0:
		g.arrive(applied)
	case last >= g.at || (last == 0 && applied > g.at):
		g.fail(fmt.Errorf("pause at %s: transactions up to %s are applied already", g.at, applied))
	case applied >= g.at, head != nil && head.CommitLSN >= g.at:
		g.arrive(applied)
	default:
		return false
	}
	return g.closed
}

// limit returns the CommitLSN from which on nothing may be applied now.
func (g *gate) limit() decoder.LSN {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		return math.MaxUint64
	}
	return g.at
}

// arrive answers the Pause that waits, if one does. mu is locked.
func (g *gate) arrive(applied decoder.LSN) {
	if g.waiting == nil {
		return
	}
	g.waiting.applied = applied
	close(g.waiting.done)
	g.waiting = nil
}

// fail answers the Pause that waits and restores the gate, except its position: a pause from before
// stays where Run is now. mu is locked.
func (g *gate) fail(err error) {
	if g.waiting == nil {
		return
	}
	g.closed, g.at = g.waiting.held, 0
	g.waiting.err = err
	close(g.waiting.done)
	g.waiting = nil
	g.notify()
}

// notify wakes Run.
func (g *gate) notify() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}
