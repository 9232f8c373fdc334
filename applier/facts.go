package applier

import (
	"time"

	"github.com/walferry/walferry/decoder"
)

// facts are what is known of the target for as long as a session lasts. They have no connection:
// batches are built from them while a pipe has it.
type facts struct {
	major     int
	replica   bool          // session_replication_role is replica
	origin    string        // the replication origin that tags our WAL; empty: none
	roundTrip time.Duration // of a statement without work

	tables map[*decoder.Relation]*table
	byName map[string]*table // by the source's schema and table

	own     ownStatements
	windows *windows    // the Applier's
	folds   *foldPolicy // the Applier's
}

// ownStatements are those that every transaction needs.
type ownStatements struct{ begin, deferConstraints, move, claim, origin, commit *statement }

// of returns the table for a relation that was described; otherwise nil.
func (f *facts) of(r *decoder.Relation) *table { return f.tables[r] }

// tablesMax bounds how many relations are kept. Each reconnect of the source sends new ones, so
// that old ones pile up.
const tablesMax = 20_000

// prune must be called between groups, when no change refers to a relation.
func (f *facts) prune() {
	if len(f.tables) > tablesMax {
		clear(f.tables)
	}
}

// forget drops what was learned of the target's tables.
func (f *facts) forget() {
	f.tables = map[*decoder.Relation]*table{}
	f.byName = map[string]*table{}
}

// meeting is the first change of a relation.
type meeting struct {
	tx       *decoder.Tx
	op       decoder.Op
	relation *decoder.Relation
}

// unknown returns the relations that have to be described before these changes are applied.
func (f *facts) unknown(txs ...*decoder.Tx) []meeting {
	var fresh []meeting
	var met map[*decoder.Relation]bool
	meet := func(tx *decoder.Tx, op decoder.Op, r *decoder.Relation) {
		if f.tables[r] != nil || met[r] {
			return
		}
		if known := f.byName[r.Namespace+"\x00"+r.Name]; known != nil && sameRelation(known.relation, r) {
			f.tables[r] = known
			return
		}
		if met == nil {
			met = map[*decoder.Relation]bool{}
		}
		met[r] = true
		fresh = append(fresh, meeting{tx, op, r})
	}
	for _, tx := range txs {
		var last *decoder.Relation
		for i := range tx.Changes {
			change := &tx.Changes[i]
			for _, r := range change.Truncated {
				meet(tx, change.Op, r)
			}
			if r := change.Relation; r != nil && r != last {
				meet(tx, change.Op, r)
				last = r
			}
		}
	}
	return fresh
}
