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

// Window is where a table stands that was not copied under the snapshot of the stream's
// first position. What is zero stands for that position.
type Window struct {
	// From: every row was read by a snapshot of this position or a later one. Changes of
	// transactions whose commit record starts before it are in the rows, and are left out.
	From decoder.LSN

	// To: no row was read by a snapshot of a later position. From From on, and before To,
	// rows of several positions stand side by side: some have a change already, some are
	// there twice under two keys, or not at all. Changes are applied so that the rows
	// become those of the source at To: a row that is there is replaced, one that is not is
	// made, and one to delete need not be there.
	To decoder.LSN
}

// Windows are those of all tables; see [Config].
type Windows struct {
	// Tables has the windows by the source's schema and table; a table that is not there is
	// as of the stream's first position. One whose From and To differ must have a
	// replica identity other than FULL, and on the target, besides the index of that, no
	// other unique index and no column GENERATED ALWAYS AS IDENTITY outside of it. Until
	// the target is past the last To of such a table, transactions are applied one change after the other.
	Tables map[decoder.Name]Window

	// Read returns a row of the source as it is now, in the order of the relation's
	// columns, nil if there is none; key is a row of which only the columns of the replica
	// identity count. It is asked when an UPDATE that leaves a TOAST value unchanged finds no
	// row, or gives it another key. The window of the table then reaches to the position
	// returned, one at which no commit that Read has seen is still to come, and Read has
	// to remember that for the next Applier before it returns.
	Read func(ctx context.Context, r *decoder.Relation, key []decoder.Value) (row []decoder.Value, at decoder.LSN, err error)
}

// windows is what an Applier knows of them.
type windows struct {
	read func(context.Context, *decoder.Relation, []decoder.Value) ([]decoder.Value, decoder.LSN, error)

	mu     sync.Mutex
	tables map[decoder.Name]Window
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
		if one.From != one.To {
			known.mixed = max(known.mixed, one.To)
		}
	}
	return known
}

// of is the window of a relation as it is now.
func (w *windows) of(r *decoder.Relation) Window {
	if w == nil {
		return Window{}
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

// Settled is the position from which on the target equals the source: the end of the last
// of [Windows]. It grows when Read is asked. Zero: there are none.
func (a *Applier) Settled() decoder.LSN {
	if a.windows == nil {
		return 0
	}
	a.windows.mu.Lock()
	defer a.windows.mu.Unlock()
	return a.windows.until
}

// converging tells that there may be rows of several snapshots.
func (a *Applier) converging() bool {
	if a.windows == nil {
		return false
	}
	a.windows.mu.Lock()
	defer a.windows.mu.Unlock()
	return a.Applied() < a.windows.mixed
}

// converge adds what makes a change of a table in its window. What the statements find is
// of no account, but for the row of an UPDATE that does not bring all of its values.
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
				// The values that it keeps are those of the row of the old key. What is there under
				// that key now may be another row, which had it later: only the source can tell.
				gone.absent = always
				b.reads(t)
			}
			if err := b.loosely(&decoder.Change{Op: decoder.Delete, Relation: c.Relation, Old: c.Old}, gone); err != nil || gone.absent == always {
				return err
			}
		}
		return b.upsert(c, loose)
	}
	// What is there may be of later, but then everything that made it so is still to come.
	loose.absent = ifNone
	b.reads(t)
	return b.loosely(c, loose)
}

func (b *batch) reads(t *table) {
	if !slices.Contains(b.reading, t) {
		b.reading = append(b.reading, t)
	}
}

// When a row is to be read from the source.
type absence byte

const (
	never  absence = iota
	ifNone         // the statement has touched no row
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

// upsert puts the new row of a change where it is not, and replaces it where it is.
func (b *batch) upsert(c *decoder.Change, a awaited) error {
	insert := &decoder.Change{Op: decoder.Insert, Relation: c.Relation, New: c.New}
	if _, err := a.table.shape(insert, false, b.shape[:0]); err != nil {
		return located(err, a.tx, c, a.table)
	}
	b.row(a.table.upsert(), insert, a)
	return nil
}

// upsert is the statement that writes a row whether it is there or not.
func (t *table) upsert() *statement {
	const name = "upsert" // no shape is like it
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

// complete tells whether a change brings every value of the new row.
func complete(t *table, c *decoder.Change) bool {
	for i := range c.New {
		if c.New[i].Kind == decoder.Unchanged && i < len(t.columns) && !t.columns[i].generated {
			return false
		}
	}
	return true
}

// moves tells whether an UPDATE changes the key.
func (t *table) moves(c *decoder.Change) bool {
	if c.Old == nil {
		return false
	}
	return slices.ContainsFunc(t.key, func(i int) bool {
		return i < len(c.Old) && i < len(c.New) && c.New[i].Kind != decoder.Unchanged && !bytes.Equal(c.Old[i].Data, c.New[i].Data)
	})
}

// complement puts in, in the open transaction, the rows that updates have not found. The source
// is asked for each as it is now, so that the window reaches up to now.
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
			continue // deleted since: the DELETE, too, is in the window
		}
		change := &decoder.Change{Op: decoder.Insert, Relation: x.change.Relation, New: row}
		if err := b.upsert(change, awaited{tx: x.tx, change: x.change, table: x.table, rows: -1}); err != nil {
			return err
		}
	}
	p := a.session.pipe(ctx)
	p.send(b) //nolint:errcheck // end tells
	return p.end()
}
