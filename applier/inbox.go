package applier

import (
	"context"
	"unsafe"

	"golang.org/x/sync/semaphore"

	"github.com/walferry/walferry/decoder"
)

// inbox reads ahead of Run, so that a group can be gathered from what arrives while the one before
// is being applied.
type inbox struct {
	items  chan item
	room   *semaphore.Weighted // bytes that may still wait in items
	max    int64               // of room
	cancel context.CancelFunc
	done   chan struct{}
	err    error // why items was closed
}

// item is a Tx with an estimate of the memory that it takes.
type item struct {
	tx    *decoder.Tx
	bytes int
}

// newInbox reads src until an error or close. It holds up to so many transactions, and bytes.
func newInbox(ctx context.Context, src Source, txs, bytes int) *inbox {
	ctx, cancel := context.WithCancel(ctx)
	in := &inbox{
		items: make(chan item, txs), room: semaphore.NewWeighted(int64(bytes)), max: int64(bytes),
		cancel: cancel, done: make(chan struct{}),
	}
	go func() { defer close(in.done); in.err = in.fill(ctx, src); close(in.items) }()
	return in
}

func (in *inbox) fill(ctx context.Context, src Source) error {
	for {
		tx, err := src.Next(ctx)
		if err != nil {
			return err
		}
		it := item{tx: tx, bytes: size(tx)}
		if err := in.room.Acquire(ctx, in.weight(it)); err != nil {
			return err
		}
		select {
		case in.items <- it:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// weight is the share of the room that an item takes; one that is larger takes all of it.
func (in *inbox) weight(it item) int64 { return min(int64(it.bytes), in.max) }

// took releases the room of an item that was received from items.
func (in *inbox) took(it item) { in.room.Release(in.weight(it)) }

// close stops the reading and waits for its end.
func (in *inbox) close() {
	in.cancel()
	<-in.done
}

const (
	changeBytes = int(unsafe.Sizeof(decoder.Change{}))
	valueBytes  = int(unsafe.Sizeof(decoder.Value{}))
)

// size estimates the memory that a Tx takes, the structures around the values included: a DELETE by
// key has only a few bytes of values.
func size(tx *decoder.Tx) int {
	n := len(tx.Changes) * changeBytes
	for i := range tx.Messages {
		n += len(tx.Messages[i].Prefix) + len(tx.Messages[i].Content)
	}
	for i := range tx.Changes {
		c := &tx.Changes[i]
		n += (len(c.Old) + len(c.New)) * valueBytes
		for _, row := range [][]decoder.Value{c.Old, c.New} {
			for j := range row {
				n += len(row[j].Data)
			}
		}
	}
	return n
}
