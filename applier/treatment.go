package applier

import (
	"slices"

	"github.com/walferry/walferry/decoder"
)

// treatment is what is done with the changes that a transaction makes to one table. It is decided
// here and nowhere else.
type treatment byte

const (
	strict   treatment = iota // each must find exactly the row that it is for
	leaveOut                  // the target is not to have the table, or its rows have the changes already
	converge                  // they turn rows of several positions into those of the source; see decoder.Window
	refuse                    // table.unfit says why the target cannot take them
	unknown                   // the table has not been described
)

// treatment is that of a transaction whose commit record starts at a position.
func (t *table) treatment(commit decoder.LSN) treatment {
	switch {
	case t == nil:
		return unknown
	case t.left, commit < t.window.From:
		return leaveOut
	case t.unfit != nil:
		return refuse
	case commit < t.window.To:
		return converge
	}
	return strict
}

// treat finds the table for a relation, and what this batch does with the changes that a
// transaction makes to it.
func (b *batch) treat(r *decoder.Relation, tx *decoder.Tx) (*table, treatment) {
	t := b.facts.of(r)
	how := t.treatment(tx.CommitLSN)
	if how == strict && slices.Contains(b.reading, t) {
		how = converge
	}
	return t, how
}
