package applier

import (
	"context"
	"errors"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/wait"
)

// Source delivers committed transactions in commit order, large ones in pieces; see [decoder.Tx].
// *decoder.Stream implements it, and [Filter] in front of another one. Run cannot know what is
// missing: a Source of one's own must keep to what follows, or the target is not what the source
// was.
//
// What it delivers:
//   - It begins at or before [Applier.Applied] of when Run is called. What the target has already
//     is skipped; a gap is not noticed.
//   - CommitLSN increases from transaction to transaction, and EndLSN is greater than the CommitLSN
//     of the same transaction, but not than that of the next. They are the source's own: the stream's
//     row is compared with them.
//   - A transaction is whole (First and Last), or its pieces follow each other with nothing in
//     between. They may begin again with First, which voids the ones before.
//   - XID is not 0, except for positions, which have no changes. Without positions Pause waits for
//     the next transaction, and a slot that nobody writes to does not advance.
//   - Values are the text of the source's output functions under the settings that package decoder
//     pins, in the order of the Relation's columns. A Relation is not altered: a table that changes
//     has a new one.
//   - Nothing of a Tx is written to any more. Run reads ahead by as much as [Config] allows.
//
// What it does with errors: Run does not retry Next. A Source that can continue after a lost
// connection does so by itself, without leaving anything out; otherwise Run returns its error as it
// is, and the caller opens a new Source at Applied.
type Source interface {
	// Next waits for the next transaction, piece or position, until ctx ends. Run calls it from one
	// goroutine, not the one that calls Ack.
	Next(context.Context) (*decoder.Tx, error)
	// Ack acknowledges that everything before a position is durable on the target. Run calls it
	// first of all with Applied, then after each commit. It must not block, it may be called while
	// Next is, and the position never decreases.
	Ack(decoder.LSN)
}

// The pauses between attempts; each is about twice the one before.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
)

// Run applies what src delivers until ctx ends, and then returns its cause, or until an error. A
// lone transaction is applied at once; of a backlog, as much is committed together as [Config]
// allows. Run acknowledges what is durable.
//
// Run retries after transient errors, with growing pauses, for as long as it takes: lost
// connections, servers that are starting or are standbys, deadlocks, serialization failures,
// timeouts and a lack of resources. It returns a *ConflictError or *SchemaError if source and
// target do not match, a *ProgressError if another process has moved the target, a *RestartError if
// a large transaction has to start over, and errors of src as they are. In each case the target is
// at Applied(). Run has read ahead of that: to resume, open a new source there.
//
// When ctx ends, Run finishes the group in progress, for up to 30 seconds; a transaction that has
// not arrived completely is rolled back.
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

// run is the state of one call of Run.
type run struct {
	applier *Applier
	src     Source
	in      *inbox
	ahead   []item      // read, and to be applied next
	last    decoder.LSN // CommitLSN of the last transaction applied
}

// loop is at a boundary between transactions at the start of each iteration.
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
			continue // the gate has to see the head
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

// head returns what comes next; nil: it has not been read yet.
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

// next waits for the next item, or for the gate to change.
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

// received appends what came from the inbox to what was read before.
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

// group applies a group, however long it takes, and acknowledges it. It checks every result before
// it commits, which identifies the change at fault.
func (r *run) group(ctx context.Context, group []*decoder.Tx) error {
	err := r.attempt(ctx, group)
	var conflict *ConflictError
	var schema *SchemaError
	if (errors.As(err, &conflict) || errors.As(err, &schema)) && len(group) > 1 {
		// Get as far as possible: then the transaction at fault is the next one.
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

// passed records that the target has a transaction.
func (r *run) passed(tx *decoder.Tx) {
	if tx.XID != 0 {
		r.last = max(r.last, tx.CommitLSN)
	}
}

func (r *run) ack() {
	call(r.applier.hooks.beforeAck)
	r.src.Ack(r.applier.Applied())
}

// retry calls do until it succeeds, fails for good, or ctx ends.
func (a *Applier) retry(ctx context.Context, do func(context.Context) error) error {
	pauses := wait.Pauses{First: firstPause, Longest: lastPause, Random: true}
	return wait.Again(ctx, pauses, func() error { return do(ctx) }, transient, func(err error, pause time.Duration) {
		a.counts.failure()
		a.log.Info("target failed; trying again", "error", err, "applied", a.Applied(), "pause", pause.Round(time.Millisecond))
	})
}
