package flow

import (
	"context"
	"fmt"
	"sync"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
)

// Only is a running flow as a switch of some of its tables sees it: others are written all the time.
type Only struct {
	*Running
	tables map[catalog.Name]bool

	mu    sync.Mutex
	at    decoder.LSN       // CommitLSN of the last transaction that changed one of them
	table *decoder.Relation // nil: none did
}

// Only watches some tables, until end is called. There is one at a time.
func (r *Running) Only(tables []catalog.Name) (o *Only, end func()) {
	o = &Only{Running: r, tables: map[catalog.Name]bool{}}
	for _, t := range tables {
		o.tables[t] = true
	}
	set := func(only *Only) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.only = only
	}
	set(o)
	return o, func() { set(nil) }
}

// saw looks at a transaction, or a piece of one.
func (o *Only) saw(tx *decoder.Tx) {
	o.mu.Lock()
	defer o.mu.Unlock()
	look := func(r *decoder.Relation) {
		if r != nil && (r == o.table || o.tables[r.Table()]) {
			o.at, o.table = tx.CommitLSN, r
		}
	}
	for i := range tx.Changes {
		look(tx.Changes[i].Relation)
		for _, r := range tx.Changes[i].Truncated {
			look(r)
		}
	}
}

// Passed is Running.Passed for these tables.
func (o *Only) Passed(position decoder.LSN) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.table == nil || o.at < position {
		return nil
	}
	return passed(o.table, o.at, position)
}

// SettleWords is Running.SettleWords for these tables.
func (o *Only) SettleWords(ctx context.Context, done <-chan struct{}, step func(string)) error {
	return o.settleWords(ctx, o.words.of(o.tables), done, step)
}

// WordsHold is Running.WordsHold for these tables.
func (o *Only) WordsHold(ctx context.Context) error { return o.words.of(o.tables).hold(ctx) }

// passed says that a table was changed past a fence.
func passed(table *decoder.Relation, at, position decoder.LSN) error {
	return &fail.Error{
		Kind: fail.Gate,
		Problem: fmt.Sprintf("somebody has passed the fence: %s was changed at %s, and every write had to be before %s",
			table.Table().String(), at, position),
		Advice: "find out who disabled the fence's trigger, or writes without statements (a subscription, an extension), then ask again; nothing is lost: the change is on the target, too",
	}
}
