package applier

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/walferry/walferry/decoder"
)

// Source delivers committed transactions in commit order, large ones in pieces;
// see [decoder.Tx]. A *decoder.Stream is one.
type Source interface {
	// Next waits for the next transaction, piece or position.
	Next(context.Context) (*decoder.Tx, error)
	// Ack says that everything before a position is durable on the target. It does
	// not block, and the position never goes back.
	Ack(decoder.LSN)
}

// The pauses between attempts, each about twice the one before.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
)

// Run applies what src delivers until ctx ends, and then returns its cause, or
// until an error. A lone transaction is applied at once; of a backlog as much is
// committed together as [Config] allows. What is durable is acknowledged.
//
// What may go away by itself is tried again, with growing pauses, for as long as
// it takes: lost connections, servers that start or are standbys, deadlocks,
// serialization failures, timeouts and a lack of resources. Run returns a
// *ConflictError or *SchemaError where source and target do not fit, a
// *ProgressError where somebody else has moved the target, a *RestartError when a
// large transaction has to begin again, and errors of src as they are. In each
// case the target is at Applied(). Run has read ahead of it: to go on, open a new
// source there.
//
// When ctx ends the group in hand is finished, for up to 30 seconds; a transaction
// that has not arrived in full is rolled back.
func (a *Applier) Run(ctx context.Context, src Source) error {
	if !a.busy.TryLock() {
		return errBusy
	}
	defer a.busy.Unlock()
	if err := a.retry(ctx, func(ctx context.Context) error { return a.ready(ctx) }); err != nil {
		return err
	}
	src.Ack(a.Applied())
	in := newInbox(ctx, src, a.config.GroupChanges, 2*a.config.GroupBytes)
	defer in.close()
	r := &run{applier: a, src: src, in: in}
	return r.loop(ctx)
}

// run is one call of Run.
type run struct {
	applier *Applier
	src     Source
	in      *inbox
	ahead   []item      // read, and next to be applied
	last    decoder.LSN // CommitLSN of the last transaction applied
}

// loop stands at a boundary between transactions each time it comes round.
func (r *run) loop(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.applier.gate.holds(r.applier.Applied(), r.last, r.head()) {
			select {
			case <-ctx.Done():
			case <-r.applier.gate.changed:
			}
			continue
		}
		if len(r.ahead) == 0 {
			if err := r.next(ctx); err != nil {
				return err
			}
			continue // the gate has to see it
		}
		var err error
		if whole(r.head()) {
			err = r.groups(ctx)
		} else {
			err = r.pieces(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// head is what comes next; nil: it has not been read.
func (r *run) head() *decoder.Tx {
	if len(r.ahead) == 0 {
		return nil
	}
	return r.ahead[0].tx
}

// take removes the head.
func (r *run) take() item {
	it := r.ahead[0]
	r.ahead[0] = item{}
	r.ahead = r.ahead[1:]
	return it
}

// next waits for something to be read, or for the gate to change.
func (r *run) next(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.applier.gate.changed:
		return nil
	case it, ok := <-r.in.items:
		return r.received(ctx, it, ok)
	}
}

// received puts what came from the inbox behind what was read before.
func (r *run) received(ctx context.Context, it item, ok bool) error {
	if !ok {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return r.in.err
	}
	r.in.took(it)
	r.ahead = append(r.ahead, it)
	return nil
}

// group applies a group, however long it takes, and acknowledges it. It looks at every
// result before it commits, and so finds out what is wrong.
func (r *run) group(ctx context.Context, group []*decoder.Tx) error {
	err := r.attempt(ctx, group)
	var conflict *ConflictError
	var schema *SchemaError
	if (errors.As(err, &conflict) || errors.As(err, &schema)) && len(group) > 1 {
		// Come as far as possible: the transaction at fault is then the next one.
		for _, tx := range group {
			if err = r.attempt(ctx, []*decoder.Tx{tx}); err != nil {
				return err
			}
		}
	}
	return err
}

func (r *run) attempt(ctx context.Context, group []*decoder.Tx) error {
	err := r.applier.retry(ctx, func(ctx context.Context) error {
		if err := r.applier.ready(ctx); err != nil {
			return err
		}
		work, cancel := linger(ctx, finishTimeout)
		defer cancel()
		return r.applier.apply(work, group)
	})
	if err != nil {
		return err
	}
	for _, tx := range group {
		r.passed(tx)
	}
	r.ack()
	return nil
}

// passed notes that the target holds a transaction.
func (r *run) passed(tx *decoder.Tx) {
	if tx.XID != 0 {
		r.last = max(r.last, tx.CommitLSN)
	}
}

func (r *run) ack() {
	call(r.applier.hooks.beforeAck)
	r.src.Ack(r.applier.Applied())
}

// retry does something until it succeeds, fails for good, or ctx ends.
func (a *Applier) retry(ctx context.Context, do func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := do(ctx)
		if err == nil || !transient(err) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wait := pause/2 + rand.N(pause)
		a.log.Info("target failed; trying again", "error", err, "applied", a.Applied(), "pause", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
