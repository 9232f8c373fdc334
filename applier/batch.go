package applier

import (
	"fmt"

	"github.com/walferry/walferry/decoder"
)

// batch is a sequence of statements to be sent to the target. Building it needs nothing from the
// server once the tables are known.
type batch struct {
	facts    *facts
	assert   bool // the statements themselves fail on a wrong row count; otherwise the reader of the results checks it
	commands []command
	values   [][]byte // of all commands, allocated in chunks
	shape    shape    // buffer
	reading  []*table // whose rows may be read from the source after this batch, which extends their windows to its end
}

// command is one statement, and its expected result.
type command struct {
	statement *statement // prepared when it is used first
	sql       string     // without a statement
	copied    []byte     // the rows, where it is a COPY
	values    [][]byte
	size      int // in bytes, about
	awaited
}

func (f *facts) batch(assert bool) *batch { return &batch{facts: f, assert: assert} }

// own adds a statement of our own.
func (b *batch) own(what string, s *statement, values ...[]byte) {
	b.commands = append(b.commands, command{statement: s, values: values, awaited: awaited{what: what, rows: -1}})
}

// claim adds one of the statements that move the progress row, or claim it where it is.
func (b *batch) claim(s *statement, values ...[]byte) {
	b.commands = append(b.commands, command{statement: s, values: values, awaited: awaited{what: "move progress", rows: -1, claim: true}})
}

// commit makes the transaction durable.
func (b *batch) commit() {
	b.own("commit", b.facts.own.commit)
	b.commands[len(b.commands)-1].commit = true
}

// change adds the statement that applies one change of the source.
func (b *batch) change(tx *decoder.Tx, c *decoder.Change) error {
	if c.Op == decoder.Truncate {
		return b.truncate(tx, c)
	}
	t, how := b.treat(c.Relation, tx)
	switch how {
	case unknown:
		return unknownRelation(tx)
	case leaveOut:
		return nil
	case refuse:
		return located(t.unfit, tx, c, t)
	case converge:
		return b.converge(tx, c, t)
	}
	s, err := t.statement(c, b.assert, &b.shape)
	if err != nil {
		return located(err, tx, c, t)
	}
	b.row(s, c, awaited{tx: tx, change: c, table: t, rows: 1})
	return nil
}

func unknownRelation(tx *decoder.Tx) error {
	return &inputError{fmt.Sprintf("apply transaction %d: a change of no known relation", tx.XID)}
}

// changes adds the changes of one Tx, one by one in their order.
func (b *batch) changes(tx *decoder.Tx) error {
	for i := range tx.Changes {
		if err := b.change(tx, &tx.Changes[i]); err != nil {
			return err
		}
	}
	return nil
}

// row adds the statement of one change.
func (b *batch) row(s *statement, c *decoder.Change, a awaited) {
	if b.assert {
		a.rows = -1
	}
	if len(s.args) > cap(b.values)-len(b.values) {
		b.values = make([][]byte, 0, max(256, len(s.args)))
	}
	from := len(b.values)
	b.values = s.parameters(c, b.values)
	values := b.values[from:len(b.values):len(b.values)]
	size := 0
	for _, value := range values {
		size += len(value)
	}
	b.commands = append(b.commands, command{statement: s, values: values, size: size, awaited: a})
}

func (b *batch) truncate(tx *decoder.Tx, c *decoder.Change) error {
	var tables []*table
	for _, r := range c.Truncated {
		switch t, how := b.treat(r, tx); how {
		case unknown:
			return unknownRelation(tx)
		case refuse:
			return located(t.unfit, tx, c, t)
		case strict, converge: // no rows are left of any position
			tables = append(tables, t)
		}
	}
	if len(tables) > 0 {
		sql := truncate(tables, c.Restart)
		b.commands = append(b.commands, command{sql: sql, size: len(sql), awaited: awaited{tx: tx, change: c, rows: -1}})
	}
	return nil
}
