package applier

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/walferry/walferry/decoder"
)

// Windows are the windows of all tables; see [Config].
type Windows struct {
	// Tables has the windows by the source's table; a table without one is as of the stream's first
	// position. One whose From and To differ must have a replica identity other than FULL, and on
	// the target, apart from the index of that, no other unique index and no column GENERATED
	// ALWAYS AS IDENTITY outside of it. Until the target is past the last To of such a table,
	// transactions are applied one change after the other.
	Tables map[decoder.Name]decoder.Window

	// Read returns the current row of the source, in the order of the relation's columns, or nil if
	// there is none; key is a row of which only the columns of the replica identity count. It is
	// called when an UPDATE that leaves a TOAST value unchanged finds no row, or changes its key.
	// That extends the window of the table to the position returned, which must be after every
	// commit that Read has seen. Read has to record it for the next Applier before it returns.
	Read func(ctx context.Context, r *decoder.Relation, key []decoder.Value) (row []decoder.Value, at decoder.LSN, err error)
}

// windows is the Applier's state of the windows.
type windows struct {
	read func(context.Context, *decoder.Relation, []decoder.Value) ([]decoder.Value, decoder.LSN, error)

	mu     sync.Mutex
	tables map[decoder.Name]decoder.Window
	until  decoder.LSN // the largest To
	mixed  decoder.LSN // the largest To of those that differ from From
}

func newWindows(w *Windows) *windows {
	if w == nil {
		return nil
	}
	known := &windows{read: w.Read, tables: maps.Clone(w.Tables)}
	for _, one := range w.Tables {
		known.until = max(known.until, one.To)
		if one.Mixed() {
			known.mixed = max(known.mixed, one.To)
		}
	}
	return known
}

// of returns the current window of a relation.
func (w *windows) of(r *decoder.Relation) decoder.Window {
	if w == nil {
		return decoder.Window{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tables[r.Table()]
}

func (w *windows) extend(t *table, to decoder.LSN) {
	t.window.To = max(t.window.To, to)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tables[t.relation.Table()] = t.window
	w.until, w.mixed = max(w.until, to), max(w.mixed, to)
}

// Settled returns the position from which on the target equals the source: the end of the last of
// [Windows]. It increases when Read is called. Zero: there are none.
func (a *Applier) Settled() decoder.LSN {
	if a.windows == nil {
		return 0
	}
	a.windows.mu.Lock()
	defer a.windows.mu.Unlock()
	return a.windows.until
}

// converging reports whether there may be rows of several snapshots.
func (a *Applier) converging() bool {
	if a.windows == nil {
		return false
	}
	a.windows.mu.Lock()
	defer a.windows.mu.Unlock()
	return a.Applied() < a.windows.mixed
}

// converge adds the statements for a change of a table in its window. What they find does not
// matter, except for an UPDATE that does not have all values of its row.
func (b *batch) converge(tx *decoder.Tx, c *decoder.Change, t *table) error {
	if t.key == nil || t.relation.ReplicaIdentity == decoder.IdentityFull || t.alwaysBesidesKey {
		return located(&SchemaError{Reason: "a table without a key, or with an identity column outside of it, cannot have rows of several positions"}, tx, c, t)
	}
	loose := awaited{tx: tx, change: c, table: t, rows: -1}
	switch {
	case c.Op == decoder.Delete:
		return b.loosely(c, loose)
	case c.Op == decoder.Insert, c.Op == decoder.Update && (complete(t, c) || t.moves(c)):
		if c.Op == decoder.Update && t.moves(c) {
			gone := loose
			if !complete(t, c) {
				// The values that it keeps are those of the row with the old key. What has that key
				// now may be another, later row: only the source can tell.
				gone.absent = always
				b.reads(t)
			}
			if err := b.loosely(&decoder.Change{Op: decoder.Delete, Relation: c.Relation, Old: c.Old}, gone); err != nil || gone.absent == always {
				return err
			}
		}
		return b.upsert(c, loose)
	}
	// The row may be of a later position, but then all changes that led to it are still to come.
	loose.absent = ifNone
	b.reads(t)
	return b.loosely(c, loose)
}

func (b *batch) reads(t *table) {
	if !slices.Contains(b.reading, t) {
		b.reading = append(b.reading, t)
	}
}

// When a row has to be read from the source.
type absence byte

const (
	never  absence = iota
	ifNone         // the statement affected no row
	always
)

// loosely adds the ordinary statement of a change.
func (b *batch) loosely(c *decoder.Change, a awaited) error {
	s, err := a.table.statement(c, false, &b.shape)
	if err != nil {
		return located(err, a.tx, c, a.table)
	}
	b.row(s, c, a)
	return nil
}

// upsert inserts the new row of a change, or replaces it if it exists.
func (b *batch) upsert(c *decoder.Change, a awaited) error {
	insert := &decoder.Change{Op: decoder.Insert, Relation: c.Relation, New: c.New}
	if _, err := a.table.shape(insert, false, b.shape[:0]); err != nil {
		return located(err, a.tx, c, a.table)
	}
	b.row(a.table.upsert(), insert, a)
	return nil
}

// upsert returns the statement that writes a row whether it exists or not.
func (t *table) upsert() *statement {
	const name = "upsert" // no shape equals it
	if s := t.statements[name]; s != nil {
		return s
	}
	b := builder{table: t, shape: shape{byte(decoder.Insert), byNew, counted}}
	var keys, values []string
	for i := range t.columns {
		var flags byte
		if c := &t.columns[i]; !c.generated {
			flags = set
			if !c.key {
				values = append(values, c.name+" = excluded."+c.name)
			}
		}
		b.shape = append(b.shape, flags)
	}
	for _, i := range t.key {
		keys = append(keys, t.columns[i].name)
	}
	action := "nothing"
	if len(values) > 0 {
		action = "update set " + strings.Join(values, ", ")
	}
	sql := b.insert() + " on conflict (" + strings.Join(keys, ", ") + ") do " + action
	t.statements[name] = &statement{sql: sql, args: b.args}
	return t.statements[name]
}

// complete reports whether a change has every value of the new row.
func complete(t *table, c *decoder.Change) bool {
	for i := range c.New {
		if c.New[i].Kind == decoder.Unchanged && i < len(t.columns) && !t.columns[i].generated {
			return false
		}
	}
	return true
}

// moves reports whether an UPDATE changes the key.
func (t *table) moves(c *decoder.Change) bool {
	if c.Old == nil {
		return false
	}
	return slices.ContainsFunc(t.key, func(i int) bool {
		return i < len(c.Old) && i < len(c.New) && c.New[i].Kind != decoder.Unchanged && !bytes.Equal(c.Old[i].Data, c.New[i].Data)
	})
}

// complement inserts, in the open transaction, the rows that updates did not find. Each is read
// from the source as it is now, which extends the window to now.
func (a *Applier) complement(ctx context.Context, absent []awaited) error {
	if len(absent) == 0 {
		return nil
	}
	b := a.session.facts.batch(false)
	for _, x := range absent {
		row, at, err := a.windows.read(ctx, x.table.relation, x.change.New)
		if err != nil {
			return fmt.Errorf("read a row of %s from the source: %w", x.table.label(), err)
		}
		a.windows.extend(x.table, at)
		if row == nil {
			continue // deleted since: the DELETE is in the window, too
		}
		change := &decoder.Change{Op: decoder.Insert, Relation: x.change.Relation, New: row}
		if err := b.upsert(change, awaited{tx: x.tx, change: x.change, table: x.table, rows: -1}); err != nil {
			return err
		}
	}
	p := a.session.pipe(ctx)
	p.send(b) //nolint:errcheck // end returns the error
	return p.end()
}
