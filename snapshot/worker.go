package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/wait"
)

const (
	firstPause   = 250 * time.Millisecond
	longestPause = 10 * time.Second
)

// worker copies one piece at a time. Its source connection is in the snapshot's transaction, at the
// savepoint "piece"; its target connection is idle between pieces. Either is nil after it is lost.
type worker struct {
	copier         *Copier
	source, target *pgx.Conn
	spare          chan []byte // blocks for its pipes
	next           int         // what is claimed is looked for from this number of the queue on
}

func (w *worker) close(ctx context.Context) {
	w.dropSource(ctx)
	w.dropTarget(ctx)
}

func (w *worker) dropSource(ctx context.Context) {
	if w.source != nil {
		closeConn(ctx, w.source)
		w.source = nil
	}
}

func (w *worker) dropTarget(ctx context.Context) {
	if w.target != nil {
		closeConn(ctx, w.target)
		w.target = nil
	}
}

// othersPause is how long a worker waits for pieces that others have claimed, who may give them up.
const othersPause = 200 * time.Millisecond

// work copies pieces until all are there.
func (w *worker) work(ctx context.Context) error {
	var since time.Time // that there is nothing but what others have claimed
	for {
		var p *piece
		var left int
		err := w.patiently(ctx, func() (err error) {
			if err := w.connect(ctx); err != nil {
				return err
			}
			if p, err = w.copyNext(ctx); err == nil && p == nil {
				left, err = w.left(ctx)
			}
			return err
		})
		switch {
		case errors.Is(err, errRewritten):
			continue
		case err != nil:
			return err
		case p == nil && left == 0:
			return nil
		case p == nil:
			if since.IsZero() {
				since = time.Now()
			}
			w.copier.waits(since, left)
			if err := wait.Sleep(ctx, othersPause); err != nil {
				return err
			}
			continue
		}
		since = time.Time{}
		if err := w.copier.announceComplete(ctx, p.table); err != nil {
			return err
		}
	}
}

// patiently retries what fails for a transient reason.
func (w *worker) patiently(ctx context.Context, do func() error, about ...any) error {
	var since time.Time
	passes := func(err error) bool {
		if since.IsZero() {
			since = time.Now()
			w.copier.unsure.Store(true)
		}
		return passing(err) && time.Since(since) <= w.copier.config.Retry
	}
	return wait.Again(ctx, wait.Pauses{First: firstPause, Longest: longestPause}, do, passes, func(err error, pause time.Duration) {
		w.copier.config.Logger.Warn("copy is tried again", append(about, "error", err.Error(), "in", pause)...)
	})
}

// connect replaces lost connections.
func (w *worker) connect(ctx context.Context) (err error) {
	if w.source != nil && w.source.IsClosed() {
		w.dropSource(ctx)
	}
	if w.target != nil && w.target.IsClosed() {
		w.dropTarget(ctx)
	}
	if w.source == nil {
		if w.source, err = w.copier.openSource(ctx); err != nil {
			return err
		}
	}
	if w.target == nil {
		w.target, err = w.copier.openTarget(ctx)
	}
	return err
}

// copyNext claims a piece and copies it, in one transaction of the target; nil: there is none now. If it fails the target is as it was
// before.
func (w *worker) copyNext(ctx context.Context) (p *piece, err error) {
	defer func() {
		if err != nil || p == nil {
			w.rollback(ctx)
		}
		if err != nil {
			w.next = 0
		}
	}()
	p, done, err := w.claim(ctx)
	if err != nil || p == nil {
		return nil, err
	}
	if done { // by a version that had no queue
		w.copier.unsure.Store(true)
		if _, err := w.target.Exec(ctx, "commit"); err != nil {
			return nil, onTarget(err)
		}
		return p, nil
	}
	err = w.copyPiece(ctx, *p)
	if errors.Is(err, errRewritten) {
		if w.copier.putAside(p.table) {
			w.copier.config.Logger.Info("table was rewritten; it will be copied under a later snapshot", "table", p.table.Table.String())
		}
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("copy table %s: %w", p.table.Table, err)
	}
	return p, nil
}

// copyPiece copies a piece that is claimed, and commits.
func (w *worker) copyPiece(ctx context.Context, p piece) (err error) {
	t, c := p.table, w.copier
	if t.mixedBy != nil {
		if _, err := w.target.Exec(ctx, t.stage()); err != nil {
			return onTarget(err)
		}
	}
	pipe := newPipe(w.spare)
	c.setRunning(t, pipe, true)
	defer c.setRunning(t, pipe, false)
	var sent, stored int64
	if len(t.columns) == 0 {
		sent, stored, err = w.moveCount(ctx, t)
		pipe.rows.Store(sent)
	} else {
		sent, stored, err = w.move(ctx, t, t.bounds[p.number], pipe)
	}
	if err != nil {
		return err
	}
	if sent != stored {
		return &RowCountError{Sent: sent, Stored: stored}
	}
	if t.mixedBy != nil {
		if _, err := w.target.Exec(ctx, t.merge()); err != nil {
			return onTarget(err)
		}
	}
	filenode, err := leavePiece(ctx, w.source, t.matched)
	if err != nil {
		w.dropSource(ctx)
		return onSource(err)
	}
	if filenode != t.filenode() {
		if err := c.changed(ctx, w.source, t.matched, len(t.bounds)); err != nil {
			return err
		}
	}

	end := &pgx.Batch{}
	end.Queue(finishPiece, c.config.Migration, t.Schema, t.Name, p.number, sent, pipe.bytes.Load())
	end.Queue("commit")
	if _, err := execBatch(ctx, w.target, end); err != nil {
		return onTarget(err)
	}
	c.count(p, sent, pipe.bytes.Load())
	return nil
}

// rollback leaves both connections ready for the next attempt, or closed.
func (w *worker) rollback(ctx context.Context) {
	if ctx.Err() != nil {
		return // the run is over; closing the connections rolls back
	}
	if w.target != nil && !w.target.IsClosed() {
		if _, err := w.target.PgConn().Exec(ctx, "rollback").ReadAll(); err != nil {
			w.dropTarget(ctx)
		}
	}
	if w.source != nil && !w.source.IsClosed() {
		if _, err := w.source.PgConn().Exec(ctx, "rollback to savepoint piece").ReadAll(); err != nil {
			w.dropSource(ctx)
		}
	}
}

// move copies the bytes of COPY TO to COPY FROM and returns the number of rows of both sides.
func (w *worker) move(ctx context.Context, t *tableCopy, bounds string, pipe *pipe) (sent, stored int64, err error) {
	var out pgconn.CommandTag
	var sourceErr error
	read := make(chan struct{})
	go func() {
		out, sourceErr = w.source.PgConn().CopyTo(ctx, pipe, t.copyOut(bounds))
		close(read) // before the target sees the end
		pipe.end(sourceErr)
	}()
	in, targetErr := w.target.PgConn().CopyFrom(ctx, pipe, t.copyIn())
	pipe.stopReading()
	select {
	case <-read:
	default:
		// The target has stopped listening. Cancelling the COPY preserves the snapshot's
		// transaction, cutting the connection does not.
		if w.source.PgConn().CancelRequest(ctx) != nil {
			w.source.PgConn().Conn().Close()
		}
		<-read
		return 0, 0, onTarget(targetErr)
	}
	if sourceErr != nil {
		return 0, 0, onSource(sourceErr)
	}
	if targetErr != nil {
		return 0, 0, onTarget(targetErr)
	}
	return out.RowsAffected(), in.RowsAffected(), nil
}

// moveCount is move for tables that have rows but no values.
func (w *worker) moveCount(ctx context.Context, t *tableCopy) (sent, stored int64, err error) {
	if err := w.source.QueryRow(ctx, t.countOut()).Scan(&sent); err != nil {
		return 0, 0, onSource(err)
	}
	tag, err := w.target.Exec(ctx, t.countIn(), sent)
	if err != nil {
		return 0, 0, onTarget(err)
	}
	return sent, tag.RowsAffected(), nil
}

// makeDurable makes one commit with a flush, which covers everything before it.
func (w *worker) makeDurable(ctx context.Context) error {
	return w.patiently(ctx, func() error {
		if err := w.connect(ctx); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue("begin")
		batch.Queue("set local synchronous_commit = on")
		batch.Queue(finishPlan, w.copier.config.Migration)
		batch.Queue("commit")
		if _, err := execBatch(ctx, w.target, batch); err != nil {
			w.rollback(ctx)
			return onTarget(fmt.Errorf("record the end of the copy: %w", err))
		}
		return nil
	})
}

func (c *Copier) setRunning(t *tableCopy, p *pipe, running bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if running {
		t.running[p] = struct{}{}
	} else {
		delete(t.running, p)
	}
}
