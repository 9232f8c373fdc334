package applier

import (
	"testing"
	"time"

	"github.com/walferry/walferry/decoder"
)

// What counting a change costs, beside the microseconds that applying it takes.
func BenchmarkCounts(b *testing.B) {
	tx := &decoder.Tx{XID: 1, CommitTime: time.Now(), Changes: []decoder.Change{{Op: decoder.Insert}, {Op: decoder.Update}}}
	group := make([]*decoder.Tx, 1000)
	for i := range group {
		one := *tx
		one.Changes = append([]decoder.Change(nil), tx.Changes...)
		group[i] = &one
	}
	c := newCounts()
	for b.Loop() {
		c.durable(group)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/change")
}
