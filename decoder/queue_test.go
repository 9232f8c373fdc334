package decoder

import (
	"context"
	"errors"
	"testing"
	"time"
)

func sized(xid uint32, size int) *Tx { return &Tx{XID: xid, size: size} }

// A Tx larger than the queue passes when nothing else is in it; the next one waits.
func TestQueue_BoundedInBytes(t *testing.T) {
	q := newQueue(100)
	if !q.tryPut(sized(1, 500)) || q.tryPut(sized(2, 1)) {
		t.Fatal("wrong bound")
	}
	ctx := t.Context()
	if tx, err := q.take(ctx); err != nil || tx.XID != 1 {
		t.Fatalf("got %v, %v", tx, err)
	}
	if !q.tryPut(sized(2, 60)) || !q.tryPut(sized(3, 40)) || q.tryPut(sized(4, 1)) {
		t.Fatal("wrong bound")
	}
}

// While the consumer is away the producer is called back, and what it has is delivered in the end,
// in order.
func TestQueue_ProducerWaits(t *testing.T) {
	q := newQueue(10)
	ctx := t.Context()
	const n = 200
	waited := make(chan struct{}, 1)
	go func() {
		for i := range n {
			if err := q.put(ctx, sized(uint32(i), 6), time.Millisecond, func() { signal(waited) }); err != nil {
				q.end(err)
				return
			}
		}
		q.end(ErrClosed)
	}()
	<-waited
	for i := range n {
		tx, err := q.take(ctx)
		if err != nil || tx.XID != uint32(i) {
			t.Fatalf("got %v, %v, want %d", tx, err, i)
		}
	}
	for range 2 {
		if _, err := q.take(ctx); !errors.Is(err, ErrClosed) {
			t.Fatalf("got %v, want ErrClosed", err)
		}
	}
}

func TestQueue_ContextEndsWaiting(t *testing.T) {
	q := newQueue(10)
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := q.take(ctx); !errors.Is(err, stop) {
		t.Errorf("take: got %v, want %v", err, stop)
	}
	q.tryPut(sized(1, 10))
	if err := q.put(ctx, sized(2, 10), time.Hour, func() {}); !errors.Is(err, stop) {
		t.Errorf("put: got %v, want %v", err, stop)
	}
}
