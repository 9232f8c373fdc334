package applier

import (
	"context"
	"unsafe"

	"golang.org/x/sync/semaphore"

	"github.com/walferry/walferry/decoder"
)

// inbox reads ahead of Run, so that a group can be gathered from what has
// arrived while the one before was being applied.
type inbox struct {
	items  chan item
	room   *semaphore.Weighted // bytes that may still wait in items
	max    int64               // of room
	cancel context.CancelFunc
	done   chan struct{}
	err    error // why items was closed
}

// item is a Tx with the memory that it takes, about.
type item struct {
	tx    *decoder.Tx
	bytes int
}

// newInbox reads src until an error or close. It keeps up to changes of the
// smallest transactions, and as many bytes.
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

// weight is what an item takes of the room: one that is larger takes all of it.
func (in *inbox) weight(it item) int64 { return min(int64(it.bytes), in.max) }

// took gives the room of an item back that was received from items.
func (in *inbox) took(it item) { in.room.Release(in.weight(it)) }

// close ends the reading and waits for its end.
func (in *inbox) close() {
	in.cancel()
	<-in.done
}

const (
	changeBytes = int(unsafe.Sizeof(decoder.Change{}))
	valueBytes  = int(unsafe.Sizeof(decoder.Value{}))
)

// size counts what holds the values, too: a DELETE by key has a few bytes of them.
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
