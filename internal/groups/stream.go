package groups

import (
	"github.com/walferry/walferry/decoder"
)

// Stream is what a Seen sees of one stream of transactions. It costs that a look at the relation of each change, and of a transaction that has
// several tables a look at each pair.
type Stream struct {
	seen   *Seen
	tables map[uint32]known
	recent [recent]known // what was looked up last, by the low bits of its oid
	writes writes

	// Of the transaction whose pieces are coming.
	number int64
	last   *decoder.Relation
	its    []*node
	in     []int64 // of each node: the number of the last transaction that has changed it
}

// known is a table as a relation of the stream.
type known struct {
	relation *decoder.Relation
	node     *node
}

// Stream returns one that begins now.
func (s *Seen) Stream() *Stream { return &Stream{seen: s, tables: map[uint32]known{}} }

// Saw counts a transaction, or a piece of one.
func (t *Stream) Saw(tx *decoder.Tx) {
	s := t.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	if tx.First {
		t.number++
		t.its, t.last = t.its[:0], nil
	}
	for i := range tx.Changes {
		c := &tx.Changes[i]
		for _, r := range c.Truncated {
			t.add(r)
		}
		if c.Relation != nil && c.Relation != t.last {
			t.add(c.Relation)
		}
	}
	if !tx.Last || len(t.its) == 0 {
		return
	}
	t.writes.committed(tx.XID, t.its)
	s.transactions++
	s.changed = true
	if s.since.IsZero() {
		s.since = tx.CommitTime
	}
	for i, a := range t.its {
		for _, b := range t.its[i+1:] {
			s.together(a, b, tx)
		}
		if len(t.its) > allPairs {
			break
		}
	}
}

// add notes that the transaction has changed a table.
func (t *Stream) add(r *decoder.Relation) {
	t.last = r
	if r.Namespace == "walferry" {
		return
	}
	k := &t.recent[r.OID%recent]
	if k.relation != r {
		*k = t.tables[r.OID]
	}
	if k.relation != r { // new, or renamed
		*k = known{r, t.seen.node(r.Table())}
		t.tables[r.OID] = *k
	}
	for n := k.node.number; len(t.in) <= n; {
		t.in = append(t.in, 0)
	}
	if in := &t.in[k.node.number]; *in != t.number {
		*in = t.number
		t.its = append(t.its, k.node)
	}
}
