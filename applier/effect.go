package applier

import (
	"bytes"

	"github.com/walferry/walferry/decoder"
)

// effects holds net effects, at most one for each key. Without a key it holds INSERTs only.
type effects struct {
	list  []effect
	byKey map[string]int
}

// effect is the net effect on one row. Its change is synthetic: it combines the values of several,
// in the form that a source would send.
type effect struct {
	remove bool // delete it first
	put    bool // then insert or update
	change decoder.Change
	owned  bool            // change.New is not the source's
	row    []decoder.Value // with REPLICA IDENTITY FULL: the row that is put, whole
}

// newRow is the whole new row of a change. With REPLICA IDENTITY FULL the old row has the values
// that the new one leaves out.
func newRow(c *decoder.Change) []decoder.Value {
	if !unsent(c.New) {
		return c.New
	}
	row := append([]decoder.Value(nil), c.New...)
	for i := range row {
		if row[i].Kind == decoder.Unchanged && c.Old != nil {
			row[i] = c.Old[i]
		}
	}
	return row
}

// sameRow reports whether two rows are known to be equal, byte for byte.
func sameRow(a, b []decoder.Value) bool {
	for i := range a {
		if a[i].Kind == decoder.Unchanged || a[i].Kind != b[i].Kind || !bytes.Equal(a[i].Data, b[i].Data) {
			return false
		}
	}
	return true
}

// The methods below accept the changes that a source can make to a row. Any other change means that
// something is wrong: it stands alone, and the server says what.

// covers reports whether a change is of the row that is put. With REPLICA IDENTITY FULL the key is
// the target's: the source may have another row with the same key.
func (e *effect) covers(c *decoder.Change) bool {
	return e.put && (c.Relation.ReplicaIdentity != decoder.IdentityFull || sameRow(e.row, c.Old))
}

// puts records the row that a change leaves.
func (e *effect) puts(c *decoder.Change) {
	if c.Relation.ReplicaIdentity == decoder.IdentityFull {
		e.row = newRow(c)
	}
}

// of returns the effect on the row of a key, and whether there was one already.
func (s *effects) of(key []byte) (e *effect, met bool) {
	i, met := s.byKey[string(key)]
	if !met {
		i = len(s.list)
		s.byKey[string(key)] = i
		s.list = append(s.list, effect{})
	}
	return &s.list[i], met
}

func (s *effects) insert(key []byte, c *decoder.Change) bool {
	e, met := s.of(key)
	if met && e.put {
		return false // it is there
	}
	e.puts(c)
	if !met {
		e.put, e.change = true, *c
		return true
	}
	// Deleted before, or gone again: what the target has of its own in the row goes with it.
	e.put, e.change, e.owned = true, decoder.Change{Op: decoder.Insert, Relation: c.Relation, Old: e.change.Old, New: c.New}, false
	return true
}

func (s *effects) update(key []byte, c *decoder.Change) bool {
	e, met := s.of(key)
	if met && !e.covers(c) {
		return false
	}
	e.puts(c)
	if !met {
		e.put, e.change = true, decoder.Change{Op: decoder.Update, Relation: c.Relation, New: c.New}
		return true
	}
	if !e.owned {
		e.change.New, e.owned = append([]decoder.Value(nil), e.change.New...), true
	}
	for i, v := range c.New {
		if v.Kind != decoder.Unchanged {
			e.change.New[i] = v
		}
	}
	return true
}

func (s *effects) remove(key []byte, c *decoder.Change) bool {
	e, met := s.of(key)
	if !met {
		*e = effect{remove: true, change: decoder.Change{Op: decoder.Delete, Relation: c.Relation, Old: c.Old}}
		return true
	}
	if !e.covers(c) {
		return false
	}
	e.put = false
	switch {
	case e.change.Op == decoder.Update:
		e.remove = true
		e.change = decoder.Change{Op: decoder.Delete, Relation: c.Relation, Old: c.Old}
	case e.remove: // it had been deleted and inserted again
		e.change = decoder.Change{Op: decoder.Delete, Relation: c.Relation, Old: e.change.Old}
	}
	return true
}
