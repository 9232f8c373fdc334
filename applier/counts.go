package applier

import (
	"sync/atomic"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/tally"
)

// Spread is how many values were how large: Counts has one number for each of Bounds, of the values up to it that are
// larger than the one before, and one for those that are larger than all.
type Spread = tally.Spread

// Counts is what an Applier has done since New. The transactions of a COMMIT whose answer was lost are not among them.
type Counts struct {
	// The changes applied, by kind.
	Inserts, Updates, Deletes, Truncates int64

	Groups Spread // how many transactions, empty ones not counted, were committed together
	// Delay is how many seconds after its commit on the source, by the source's clock, each transaction was durable on the target, by the
	// clock of this host.
	Delay Spread

	FailedGroups int64 // that the target refused, and that were applied again with each result checked

	Reconnects int64     // of the connection to the target
	FailedAt   time.Time // when something that was tried again has failed last; zero: nothing has
}

// counts is what Counts is made of.
type counts struct {
	kinds         [4]atomic.Int64 // as kinds
	groups, delay *tally.Histogram
	failed        atomic.Int64
	reconnects    atomic.Int64
	failedAt      atomic.Int64 // nanoseconds; 0: never
}

func newCounts() *counts {
	return &counts{
		groups: tally.New(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
		delay:  tally.New(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
	}
}

// kinds is how many changes there are of each kind: inserts, updates, deletes, truncates.
type kinds [4]int64

func (k *kinds) add(changes []decoder.Change) {
	for i := range changes {
		switch changes[i].Op {
		case decoder.Insert:
			k[0]++
		case decoder.Update:
			k[1]++
		case decoder.Delete:
			k[2]++
		case decoder.Truncate:
			k[3]++
		}
	}
}

// durable counts a group that was committed.
func (c *counts) durable(group []*decoder.Tx) {
	var k kinds
	n, now := 0, time.Now()
	delay := c.delay.Batch()
	for _, tx := range group {
		k.add(tx.Changes)
		if tx.XID != 0 && len(tx.Changes) > 0 {
			n++
			delay.Observe(max(0, now.Sub(tx.CommitTime).Seconds()))
		}
	}
	delay.End()
	c.add(k, n)
}

// add counts a group of n transactions.
func (c *counts) add(k kinds, n int) {
	for i := range k {
		c.kinds[i].Add(k[i])
	}
	if n > 0 {
		c.groups.Observe(float64(n))
	}
}

func (c *counts) failure() { c.failedAt.Store(time.Now().UnixNano()) }

// Counts returns what was done so far. It costs the Applier nothing.
func (a *Applier) Counts() Counts {
	c := a.counts
	n := Counts{
		Inserts: c.kinds[0].Load(), Updates: c.kinds[1].Load(), Deletes: c.kinds[2].Load(), Truncates: c.kinds[3].Load(),
		Groups: c.groups.Read(), Delay: c.delay.Read(), FailedGroups: c.failed.Load(), Reconnects: c.reconnects.Load(),
	}
	if at := c.failedAt.Load(); at != 0 {
		n.FailedAt = time.Unix(0, at)
	}
	return n
}
