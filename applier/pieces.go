package applier

import (
	"context"
	"fmt"
	"time"

	"github.com/walferry/walferry/decoder"
)

// pieces applies the transaction whose first piece is the head, in one transaction of the target
// that stays open while the pieces arrive. Each is sent while the target is still working on the
// one before, and none is kept.
func (r *run) pieces(ctx context.Context) error {
	tx := r.take().tx
	if !tx.First {
		return &inputError{fmt.Sprintf("apply transaction %d: its first piece has not come", tx.XID)}
	}
	if there(tx, r.applier.Applied()) {
		return r.skip(ctx)
	}
	work, cancel := linger(ctx, finishTimeout)
	defer cancel()
	l := &large{run: r, applier: r.applier, from: r.applier.Progress(), changes: len(tx.Changes)}
	l.kinds.add(tx.Changes)
	if err := r.applier.retry(ctx, func(ctx context.Context) error { return l.open(ctx, work, tx) }); err != nil {
		return err
	}
	for !tx.Last {
		select {
		case <-l.pipe.failed:
			return l.failed(ctx, work, tx, l.pipe.err)
		default:
		}
		if err := r.nextPiece(ctx, l.pipe.failed); err != nil {
			l.undo(work)
			return err
		}
		if len(r.ahead) == 0 {
			continue // it has failed
		}
		if r.head().First { // the stream has reconnected and starts the transaction over
			l.undo(work)
			return nil
		}
		tx = r.take().tx
		l.changes += len(tx.Changes)
		l.kinds.add(tx.Changes)
		if err := l.piece(work, tx); err != nil {
			return l.failed(ctx, work, tx, err)
		}
	}
	return l.commit(ctx, work, tx)
}

// skip reads past a transaction that the target has.
func (r *run) skip(ctx context.Context) error {
	for {
		if err := r.nextPiece(ctx, nil); err != nil || r.head().First {
			return err
		}
		if r.take().tx.Last {
			return nil
		}
	}
}

// nextPiece waits for the next piece, or until what was sent has failed. The gate only acts between
// transactions.
func (r *run) nextPiece(ctx context.Context, failed <-chan struct{}) error {
	if len(r.ahead) > 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-failed:
		return nil
	case it, ok := <-r.in.items:
		return r.received(ctx, it, ok)
	}
}

// large is a transaction that is applied in pieces.
type large struct {
	run     *run
	applier *Applier
	pipe    *pipe // nil: the session has its connection
	from    Progress
	changes int
	kinds   kinds
	folded  bool
}

// open applies the first piece and waits for its results: it is still in memory, so that it can be
// retried in another way.
func (l *large) open(ctx, work context.Context, first *decoder.Tx) error {
	if err := l.applier.ready(ctx); err != nil {
		return err
	}
	l.applier.session.facts.prune()
	l.folded = first.CommitLSN != l.applier.folds.unfolded && l.applier.mayFold(len(first.Changes))
	for {
		fresh := len(l.applier.session.facts.tables) == 0
		err := l.begin(work, first)
		if err == nil {
			return nil
		}
		err = l.applier.rollback(work, err)
		switch {
		case l.applier.session == nil:
			return err
		case l.folded && l.applier.misfit(err):
			l.applier.folds.unfolded, l.folded = first.CommitLSN, false
		case !maybeStale(err, fresh):
			return err
		}
	}
}

func (l *large) begin(work context.Context, first *decoder.Tx) error {
	if err := l.applier.session.resolve(work, &l.applier.config, first); err != nil {
		return err
	}
	head := l.applier.session.facts.batch(false)
	head.begin()
	head.claim(l.applier.session.facts.own.claim, []byte(l.applier.config.Name), []byte(l.from.Applied.String()))
	body, err := l.applier.session.facts.batchOf(l.folded, false, first)
	if err != nil {
		return err
	}
	l.pipe = l.applier.session.pipe(work)
	if err := l.pipe.send(head, body); err == nil {
		err = l.pipe.settle()
		if err == nil {
			return l.complement(work)
		}
	}
	return l.close()
}

// complement completes a piece while a window is open, which needs the piece's results.
func (l *large) complement(work context.Context) error {
	if !l.applier.converging() {
		return nil
	}
	p := l.pipe
	if err := l.close(); err != nil {
		return err
	}
	if err := l.applier.complement(work, p.absent); err != nil {
		return err
	}
	l.pipe = l.applier.session.pipe(work)
	return nil
}

// piece sends a later piece.
func (l *large) piece(work context.Context, tx *decoder.Tx) error {
	if fresh := l.applier.session.facts.unknown(tx); len(fresh) > 0 {
		if err := l.close(); err != nil {
			return err
		}
		if err := l.applier.session.describe(work, &l.applier.config, fresh); err != nil {
			return err
		}
		l.pipe = l.applier.session.pipe(work)
	}
	b, err := l.applier.session.facts.batchOf(l.folded, false, tx)
	if err != nil {
		return err
	}
	if err := l.pipe.send(b); err != nil {
		return err
	}
	if err := l.pipe.push(); err != nil {
		return err
	}
	return l.complement(work)
}

// commit ends the transaction once all its results are known.
func (l *large) commit(ctx, work context.Context, last *decoder.Tx) error {
	to := l.from
	to.add(last, l.changes)
	b := l.applier.session.facts.batch(false)
	b.move(l.applier.config.Name, l.from, to)
	err := l.pipe.send(b)
	if err == nil {
		err = l.close()
	}
	if err != nil {
		return l.failed(ctx, work, last, err)
	}
	if err := l.applier.commit(work, Place{XID: last.XID, LSN: last.CommitLSN}, to); err != nil {
		return l.run.interrupted(ctx, last, err)
	}
	if l.folded {
		l.applier.folds.succeeded()
	}
	l.applier.counts.delay.Observe(max(0, time.Since(last.CommitTime).Seconds()))
	l.applier.counts.add(l.kinds, 1)
	l.run.passed(last)
	l.run.ack()
	return nil
}

// close ends the pipe, if there is one, and returns its first error.
func (l *large) close() error {
	if l.pipe == nil {
		return nil
	}
	p := l.pipe
	l.pipe = nil
	return p.end()
}

// failed abandons the transaction because of err, or of an earlier error, and returns the one to
// report.
func (l *large) failed(ctx, work context.Context, tx *decoder.Tx, err error) error {
	if first := l.close(); first != nil {
		err = first
	}
	err = l.applier.rollback(work, err)
	if l.folded && l.applier.misfit(err) {
		// The pieces before are rolled back and gone: the source has to send all of them again.
		l.applier.folds.unfolded = tx.CommitLSN
		return &RestartError{XID: tx.XID, LSN: tx.CommitLSN, Applied: l.applier.Applied(), err: err}
	}
	return l.run.interrupted(ctx, tx, err)
}

// undo abandons the transaction whose end has not arrived.
func (l *large) undo(work context.Context) {
	if l.close() != nil || l.applier.session.clean(work) != nil {
		l.applier.drop(work)
	}
}

// interrupted returns the error for a transaction whose earlier pieces are gone.
func (r *run) interrupted(ctx context.Context, tx *decoder.Tx, err error) error {
	if ctx.Err() != nil || !transient(err) {
		return err
	}
	return &RestartError{XID: tx.XID, LSN: tx.CommitLSN, Applied: r.applier.Applied(), err: err}
}
