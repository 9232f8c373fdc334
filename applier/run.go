package applier

import (
	"context"
	"errors"
	"fmt"
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
	r := &run{Applier: a, src: src, in: in}
	return r.loop(ctx)
}

// run is one call of Run.
type run struct {
	*Applier
	src  Source
	in   *inbox
	head *item       // read, and next to be applied
	last decoder.LSN // CommitLSN of the last transaction applied
}

// loop stands at a boundary between transactions each time it comes round.
func (r *run) loop(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var head *decoder.Tx
		if r.head != nil {
			head = r.head.tx
		}
		if r.gate.holds(r.Applied(), r.last, head) {
			select {
			case <-ctx.Done():
			case <-r.gate.changed:
			}
			continue
		}
		if r.head == nil {
			if err := r.next(ctx); err != nil {
				return err
			}
			continue // the gate has to see it
		}
		var err error
		if whole(head) {
			err = r.group(ctx, r.gather(*r.take()))
		} else {
			err = r.pieces(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// next waits for the head, or for the gate to change.
func (r *run) next(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.gate.changed:
		return nil
	case it, ok := <-r.in.items:
		return r.received(ctx, it, ok)
	}
}

// received makes what came from the inbox the head.
func (r *run) received(ctx context.Context, it item, ok bool) error {
	if !ok {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return r.in.err
	}
	r.in.took(it)
	r.head = &it
	return nil
}

func (r *run) take() *item {
	it := r.head
	r.head = nil
	return it
}

// gather adds to the first transaction those that have arrived meanwhile.
func (r *run) gather(first item) []*decoder.Tx {
	limit := r.gate.limit()
	group := []*decoder.Tx{first.tx}
	changes, bytes := len(first.tx.Changes), first.bytes
	for changes < r.config.GroupChanges && bytes < r.config.GroupBytes && len(group) < r.config.GroupChanges {
		select {
		case it, ok := <-r.in.items:
			if !ok {
				return group // the loop meets it again
			}
			r.in.took(it)
			if !whole(it.tx) || it.tx.CommitLSN >= limit {
				r.head = &it
				return group
			}
			group = append(group, it.tx)
			changes += len(it.tx.Changes)
			bytes += it.bytes
		default:
			return group
		}
	}
	return group
}

// group applies a group, however long it takes, and acknowledges it.
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
	err := r.retry(ctx, func(ctx context.Context) error {
		if err := r.ready(ctx); err != nil {
			return err
		}
		work, cancel := linger(ctx, finishTimeout)
		defer cancel()
		return r.apply(work, group)
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
	if r.beforeAck != nil {
		r.beforeAck()
	}
	r.src.Ack(r.Applied())
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

// pieces applies the transaction whose first piece is the head, in one transaction
// of the target that stays open while the pieces come. Only one piece is kept.
func (r *run) pieces(ctx context.Context) error {
	first := r.take().tx
	if !first.First {
		return &inputError{fmt.Sprintf("apply transaction %d: its first piece has not come", first.XID)}
	}
	skip := there(first, r.Applied())
	from := r.Applier.Progress()
	if !skip {
		if err := r.retry(ctx, func(ctx context.Context) error { return r.open(ctx, first, from) }); err != nil {
			return err
		}
	}
	changes := len(first.Changes)
	for {
		if err := r.nextPiece(ctx); err != nil {
			if !skip {
				r.undo(ctx)
			}
			return err
		}
		if r.head.tx.First {
			// The source lost its connection and begins again.
			if !skip {
				r.undo(ctx)
			}
			return nil
		}
		tx := r.take().tx
		changes += len(tx.Changes)
		if skip {
			if tx.Last {
				return nil
			}
			continue
		}
		var to *Progress
		if tx.Last {
			end := from
			end.add(tx, changes)
			to = &end
		}
		err := r.piece(ctx, tx, from, to)
		if err == nil && tx.Last {
			work, cancel := linger(ctx, finishTimeout)
			err = r.commit(work, Place{XID: tx.XID, LSN: tx.CommitLSN}, *to)
			cancel()
		}
		if err != nil {
			return r.interrupted(ctx, tx, err)
		}
		if tx.Last {
			r.passed(tx)
			r.ack()
			return nil
		}
	}
}

// open applies the first piece.
func (r *run) open(ctx context.Context, first *decoder.Tx, from Progress) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	r.session.prune()
	fresh := len(r.session.tables) == 0
	err := r.piece(ctx, first, from, nil)
	if r.session != nil && maybeStale(err, fresh) {
		err = r.piece(ctx, first, from, nil)
	}
	return err
}

// nextPiece waits for the next piece. The gate stands between transactions only.
func (r *run) nextPiece(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case it, ok := <-r.in.items:
		return r.received(ctx, it, ok)
	}
}

// piece sends one piece: the first with what opens the transaction, the last, with
// to, with the position that it leads to.
func (r *run) piece(ctx context.Context, tx *decoder.Tx, from Progress, to *Progress) error {
	work, cancel := linger(ctx, finishTimeout)
	defer cancel()
	folded := tx.CommitLSN != r.unfolded && r.folds(len(tx.Changes))
	p, err := r.sendPiece(work, tx, from, to, folded)
	switch {
	case err == nil:
		err = p.finish()
	case p != nil:
		p.abandon()
	}
	if err != nil {
		err = r.rollback(work, err)
	}
	if !folded || !r.misfit(err) {
		return err
	}
	// The pieces before are rolled back, and gone: all of it comes again.
	r.unfolded = tx.CommitLSN
	if tx.First && r.session != nil {
		return r.piece(ctx, tx, from, to)
	}
	return &RestartError{XID: tx.XID, LSN: tx.CommitLSN, Applied: r.Applied(), err: err}
}

func (r *run) sendPiece(ctx context.Context, tx *decoder.Tx, from Progress, to *Progress, folded bool) (*pipe, error) {
	if err := r.session.resolve(ctx, &r.config, tx); err != nil {
		return nil, err
	}
	p := r.session.pipe(ctx)
	if tx.First {
		if err := r.begin(p); err != nil {
			return p, err
		}
		if err := p.fence(holdProgress, []byte(r.config.Name), []byte(from.Applied.String())); err != nil {
			return p, err
		}
	}
	send := sendChanges
	if folded {
		send = func(p *pipe, tx *decoder.Tx) error { return sendFolded(p, tx) }
	}
	if err := send(p, tx); err != nil {
		return p, err
	}
	if to != nil {
		return p, r.move(p, from, *to)
	}
	return p, nil
}

// undo gives up the transaction whose end has not come.
func (r *run) undo(ctx context.Context) {
	work, cancel := linger(ctx, finishTimeout)
	defer cancel()
	if r.session.clean(work) != nil {
		r.drop(work)
	}
}

// interrupted is the error of a transaction whose earlier pieces are gone.
func (r *run) interrupted(ctx context.Context, tx *decoder.Tx, err error) error {
	if ctx.Err() != nil || !transient(err) {
		return err
	}
	return &RestartError{XID: tx.XID, LSN: tx.CommitLSN, Applied: r.Applied(), err: err}
}
