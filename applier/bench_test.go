package applier

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/decoder"
)

// benchGroup is a group of 2,000 changes like those of pgbench -N: an update of a row by its key,
// and an insert into a table without one.
func benchGroup() (*facts, []*decoder.Tx) {
	accounts, history := relation("accounts", 'd', "aid*", "bid", "abalance", "filler"), relation("history", 'n', "tid", "bid", "aid", "delta", "mtime")
	folds := newFoldPolicy()
	s := &facts{replica: true, folds: &folds, tables: map[*decoder.Relation]*table{}}
	for r, keys := range map[*decoder.Relation][]key{accounts: unique("aid"), history: nil} {
		t := known(r, keys, func(t *table) { t.foldable, t.setStatements = true, map[string]*statement{} })
		s.tables[r] = t
	}
	var txs []*decoder.Tx
	for i := range 1000 {
		aid, delta := fmt.Sprint(i*7919%1_000_000), fmt.Sprint(i-500)
		txs = append(txs, &decoder.Tx{First: true, Last: true, Changes: []decoder.Change{
			update(accounts, nil, row(aid, "1", delta, strings.Repeat(" ", 84))),
			insert(history, "1", "1", aid, delta, "2026-01-02 03:04:05.678901"),
		}})
	}
	return s, txs
}

// The way of a group from its changes to the parameters that are sent: by its net effect, and
// change by change.
func BenchmarkBatch(b *testing.B) {
	s, txs := benchGroup()
	for name, folded := range map[string]bool{"folded": true, "one by one": false} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.batchOf(folded, true, txs...); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/change")
		})
	}
}

// The parameters of statements for many rows: as text[] in the binary format, and quoted.
func BenchmarkArray(b *testing.B) {
	var changes []*decoder.Change
	r := relation("t", 'd', "id*", "v")
	for i := range 1000 {
		c := insert(r, fmt.Sprint(i), `some "text" with \ in it`)
		changes = append(changes, &c)
	}
	for name, encode := range map[string]func() []byte{
		"text":   func() []byte { return textArray(changes, arg{column: 1}) },
		"quoted": func() []byte { return literal(changes, arg{column: 1}, ',') },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				size = len(encode())
			}
			b.SetBytes(int64(size))
		})
	}
}
