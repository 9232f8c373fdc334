package applier

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/walferry/walferry/decoder"
)

// fold turns the changes of a group into the net effect that they have on each row, so that a table
// takes one statement for many of them. A change whose net effect is not certain stays separate, in
// its place among the others of its table.
//
// The order between tables is given up, which is allowed only in replica role, where neither
// foreign keys nor triggers depend on it.
type fold struct {
	batch  *batch
	tables map[string]*folded // by the name on the target
	order  []*folded          // as they were met
	key    []byte             // buffer
}

// folded are the changes of one table, as steps to be taken in order.
type folded struct {
	table *table
	steps []step
}

// step is a set of net effects, or one change.
type step struct {
	net    *effects
	tx     *decoder.Tx
	change *decoder.Change
}

func (b *batch) fold() *fold {
	return &fold{batch: b, tables: map[string]*folded{}}
}

// add takes the next change, or returns false if everything so far has to be sent before it: a
// TRUNCATE of several tables, a change that triggers see, or one of a table that was met in another
// form.
func (f *fold) add(tx *decoder.Tx, c *decoder.Change) bool {
	if c.Op == decoder.Truncate {
		return f.truncate(tx, c)
	}
	t, how := f.batch.treat(c.Relation, tx)
	switch how {
	case unknown, refuse: // sending it returns the error
		f.order = append(f.order, &folded{steps: []step{{tx: tx, change: c}}})
		return true
	case leaveOut:
		return true
	}
	to := f.of(t)
	if to == nil {
		return false
	}
	if how != strict || !t.foldable || !f.into(to.open(), t, c) {
		to.steps = append(to.steps, step{tx: tx, change: c})
	}
	return true
}

// truncate takes a TRUNCATE of one table, which cancels all changes of the table before it, earlier
// TRUNCATEs included. The server searches all of its buffers for each.
func (f *fold) truncate(tx *decoder.Tx, c *decoder.Change) bool {
	if len(c.Truncated) != 1 {
		return false
	}
	t, how := f.batch.treat(c.Truncated[0], tx)
	switch how {
	case unknown, refuse:
		return false
	case leaveOut:
		return true
	}
	to := f.of(t)
	if to == nil || to.restarts() && !c.Restart {
		return false
	}
	to.steps = []step{{tx: tx, change: c}}
	return true
}

// of returns where the changes of a table go; nil if they cannot be folded with those so far.
func (f *fold) of(t *table) *folded {
	to := f.tables[t.sql]
	switch {
	case t.watched:
		return nil
	case to == nil:
		to = &folded{table: t}
		f.tables[t.sql] = to
		f.order = append(f.order, to)
	case to.table != t:
		return nil
	}
	return to
}

// restarts reports whether one of the changes restarts sequences.
func (to *folded) restarts() bool {
	return slices.ContainsFunc(to.steps, func(s step) bool { return s.net == nil && s.change.Restart })
}

// open returns the set that the next change may go into.
func (to *folded) open() *effects {
	if n := len(to.steps); n > 0 && to.steps[n-1].net != nil {
		return to.steps[n-1].net
	}
	s := &effects{byKey: map[string]int{}}
	to.steps = append(to.steps, step{net: s})
	return s
}

// into merges a change into a set; false when it has to stand alone.
func (f *fold) into(s *effects, t *table, c *decoder.Change) bool {
	n := len(t.columns)
	if c.Op != decoder.Delete && len(c.New) != n || c.Old != nil && len(c.Old) != n {
		return false
	}
	if !t.distinct {
		if c.Op != decoder.Insert || unsent(c.New) {
			return false
		}
		s.list = append(s.list, effect{put: true, change: *c})
		return true
	}
	if c.Op != decoder.Insert && t.relation.ReplicaIdentity == decoder.IdentityFull && !c.OldFull {
		return false
	}
	var ok bool
	switch c.Op {
	case decoder.Insert:
		if ok = f.keyOf(t, c.New) && !unsent(c.New); ok {
			ok = s.insert(f.key, c)
		}
	case decoder.Update:
		if ok = !t.alwaysBesidesKey && f.keepsKey(t, c); ok {
			ok = s.update(f.key, c)
		}
	case decoder.Delete:
		if ok = c.Old != nil && f.keyOf(t, c.Old); ok {
			ok = s.remove(f.key, c)
		}
	}
	return ok
}

// keyOf writes the key of a row to f.key; false when the row does not have all of it.
func (f *fold) keyOf(t *table, row []decoder.Value) bool {
	f.key = f.key[:0]
	for _, i := range t.key {
		if row[i].Kind != decoder.Text {
			return false
		}
		f.key = binary.AppendUvarint(f.key, uint64(len(row[i].Data)))
		f.key = append(f.key, row[i].Data...)
	}
	return true
}

// keepsKey is keyOf for an UPDATE; false also when it changes the key.
func (f *fold) keepsKey(t *table, c *decoder.Change) bool {
	if c.Old == nil {
		return f.keyOf(t, c.New)
	}
	for _, i := range t.key {
		if c.New[i].Kind != c.Old[i].Kind || !bytes.Equal(c.New[i].Data, c.Old[i].Data) {
			return false
		}
	}
	return f.keyOf(t, c.Old)
}

func unsent(row []decoder.Value) bool {
	for i := range row {
		if row[i].Kind == decoder.Unchanged {
			return true
		}
	}
	return false
}

// unfold adds the net effects to the batch.
func (f *fold) unfold() error {
	for _, to := range f.order {
		for i := range to.steps {
			step := &to.steps[i]
			if step.net == nil {
				if err := f.batch.change(step.tx, step.change); err != nil {
					return err
				}
				continue
			}
			if err := f.batch.effects(to.table, step.net); err != nil {
				return err
			}
		}
	}
	return nil
}

// effects adds the net effects on the rows of a table: deletions first, to make room for what
// comes.
func (b *batch) effects(t *table, s *effects) error {
	var gone, changed, come []*decoder.Change
	for i := range s.list {
		e := &s.list[i]
		if e.remove {
			c := &e.change
			if e.put {
				c = &decoder.Change{Op: decoder.Delete, Relation: c.Relation, Old: c.Old}
			}
			gone = append(gone, c)
		}
		switch {
		case !e.put:
		case e.change.Op == decoder.Update:
			changed = append(changed, &e.change)
		default:
			e.change.Old = nil
			come = append(come, &e.change)
		}
	}
	for _, changes := range [][]*decoder.Change{gone, changed, come} {
		if err := b.alike(t, changes); err != nil {
			return err
		}
	}
	return nil
}

// alike adds changes of different rows, grouped by their shapes.
func (b *batch) alike(t *table, changes []*decoder.Change) error {
	type bucket struct {
		shape   string
		changes []*decoder.Change
	}
	var buckets []bucket
	byShape := map[string]int{}
	for _, c := range changes {
		shape, err := t.shape(c, b.assert, b.shape[:0])
		b.shape = shape
		if err != nil {
			return &foldError{err}
		}
		i, ok := byShape[string(shape)]
		if !ok {
			i = len(buckets)
			byShape[string(shape)] = i
			buckets = append(buckets, bucket{shape: string(shape)})
		}
		buckets[i].changes = append(buckets[i].changes, c)
	}
	for _, bucket := range buckets {
		s := t.setStatement(shape(bucket.shape))
		switch n := len(bucket.changes); {
		case s != nil && n >= b.facts.folds.leastCopy && t.copied && bucket.changes[0].Op == decoder.Insert:
			b.copy(t, s, bucket.changes)
		case s != nil && n >= b.facts.folds.leastSet:
			b.many(t, s, bucket.changes)
		default:
			for _, c := range bucket.changes {
				if err := b.one(t, c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// folding turns transactions, as they come, into a batch by their net effect.
type folding struct {
	batch *batch
	fold  *fold
}

func (f *facts) folding(assert bool) *folding {
	b := f.batch(assert)
	return &folding{batch: b, fold: b.fold()}
}

// add takes the changes of one Tx.
func (f *folding) add(tx *decoder.Tx) error {
	for i := range tx.Changes {
		c := &tx.Changes[i]
		if f.fold.add(tx, c) {
			continue
		}
		if len(f.fold.order) > 0 {
			if err := f.fold.unfold(); err != nil {
				return err
			}
			f.fold = f.batch.fold()
			if f.fold.add(tx, c) {
				continue
			}
		}
		if err := f.batch.change(tx, c); err != nil {
			return err
		}
	}
	return nil
}

// end is the batch for what was added.
func (f *folding) end() (*batch, error) { return f.batch, f.fold.unfold() }

// batchOf is the batch of transactions by their net effect, or change by change.
func (f *facts) batchOf(folded, assert bool, txs ...*decoder.Tx) (*batch, error) {
	if folded {
		folding := f.folding(assert)
		for _, tx := range txs {
			if err := folding.add(tx); err != nil {
				return nil, err
			}
		}
		return folding.end()
	}
	b := f.batch(assert)
	for _, tx := range txs {
		if err := b.changes(tx); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// one adds a synthetic change.
func (b *batch) one(t *table, c *decoder.Change) error {
	s, err := t.statement(c, b.assert, &b.shape)
	if err != nil {
		return &foldError{err}
	}
	b.row(s, c, awaited{many: t, rows: 1})
	return nil
}

// many adds changes of one shape as one statement: each of its parameters is an array that has a
// value of each change.
func (b *batch) many(t *table, s *statement, changes []*decoder.Change) {
	size := 0
	values := make([][]byte, len(s.args))
	for i, arg := range s.args {
		if s.formats[i] == binaryFormat {
			values[i] = textArray(changes, arg)
		} else {
			values[i] = literal(changes, arg, t.columns[arg.column].delimiter)
		}
		size += len(values[i])
	}
	b.commands = append(b.commands, command{statement: s, values: values, size: size, awaited: b.all(t, changes)})
}

// all returns the expected result of a statement for many changes.
func (b *batch) all(t *table, changes []*decoder.Change) awaited {
	if b.assert {
		return awaited{many: t, rows: -1}
	}
	return awaited{many: t, rows: int64(len(changes))}
}

// foldError means that a group cannot be applied by its net effect, according to the server or to
// us; applying the changes one by one shows why, or succeeds.
type foldError struct{ err error }

func (e *foldError) Error() string { return e.err.Error() }
func (e *foldError) Unwrap() error { return e.err }
