package decoder

import (
	"context"
	"sync"
	"time"
)

// queue has what was received and not yet taken. It is bounded in bytes, but an empty one accepts a
// Tx of any size.
type queue struct {
	limit int

	mu    sync.Mutex
	txs   []*Tx // ring
	first int
	n     int
	bytes int
	err   error // why nothing more will come

	filled chan struct{} // of capacity 1: something came, or err
	taken  chan struct{} // of capacity 1: something was taken
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, filled: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tryPut returns false, and does nothing, if the queue is full.
func (q *queue) tryPut(tx *Tx) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n > 0 && q.bytes+tx.size > q.limit {
		return false
	}
	if q.n == len(q.txs) {
		grown := make([]*Tx, max(64, 2*q.n))
		for i := range q.n {
			grown[i] = q.txs[(q.first+i)%len(q.txs)]
		}
		q.txs, q.first = grown, 0
	}
	q.txs[(q.first+q.n)%len(q.txs)] = tx
	q.n++
	q.bytes += tx.size
	if q.n == 1 {
		signal(q.filled)
	}
	return true
}

// put waits for room, and calls wait every interval meanwhile.
func (q *queue) put(ctx context.Context, tx *Tx, interval time.Duration, wait func()) error {
	if q.tryPut(tx) {
		return nil
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for !q.tryPut(tx) {
		select {
		case <-q.taken:
		case <-ticker.C:
			wait()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// end records that nothing more will come, and why.
func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	signal(q.filled)
}

// take waits for the next Tx. What was put before the end is returned first.
func (q *queue) take(ctx context.Context) (*Tx, error) {
	for {
		q.mu.Lock()
		if q.n > 0 {
			tx := q.txs[q.first]
			q.txs[q.first] = nil
			q.first = (q.first + 1) % len(q.txs)
			q.n--
			q.bytes -= tx.size
			more := q.n > 0
			q.mu.Unlock()
			signal(q.taken)
			if more {
				signal(q.filled) // for another goroutine that waits here
			}
			return tx, nil
		}
		err := q.err
		q.mu.Unlock()
		if err != nil {
			signal(q.filled)
			return nil, err
		}
		select {
		case <-q.filled:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// clear discards what was not taken.
func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.txs, q.first, q.n, q.bytes = nil, 0, 0, 0
}
