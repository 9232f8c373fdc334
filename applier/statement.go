package applier

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/walferry/walferry/decoder"
)

// statement is SQL that applies all changes of one shape to one table. All of its values are text
// parameters of undeclared type: the target's own input functions read what the source's output
// functions wrote.
type statement struct {
	sql     string
	args    []arg
	formats []int16 // of the parameters; nil: all are text
	name    string  // on the server, once it is prepared
}

// arg says where the value of a parameter comes from.
type arg struct {
	column int
	old    bool // from the old row or key
}

// shape determines a statement; changes of the same shape share it. Byte 0 is the operation, byte 1
// says which row describes the row to find, byte 2 what counts the affected rows, and then there is
// a byte for each column.
type shape []byte

const (
	byOld = 'o'
	byNew = 'n'

	// The statement fails unless it affects as many rows as it is for, so that the COMMIT can be
	// sent before its result is read. That costs the server a little.
	asserted = 'p'
	// The reader of the results counts.
	counted = 'c'

	shapeHead = 3
)

const (
	set    byte = 1 << iota // the column is written
	isNull                  // the column is null in the row to find
)

// statement returns the statement that applies a change other than TRUNCATE. It keeps statements in
// the table, and reuses buf for the shape.
func (t *table) statement(c *decoder.Change, assert bool, buf *shape) (*statement, error) {
	shape, err := t.shape(c, assert, (*buf)[:0])
	*buf = shape
	if err != nil {
		return nil, err
	}
	if s := t.statements[string(shape)]; s != nil {
		return s, nil
	}
	if len(t.statements) >= 2*preparedMax {
		clear(t.statements) // there can be as many shapes as sets of columns
	}
	s := t.build(shape)
	t.statements[string(shape)] = s
	return s, nil
}

// parameters appends the values that a change has for the statement.
func (s *statement) parameters(c *decoder.Change, to [][]byte) [][]byte {
	for _, a := range s.args {
		switch v := a.value(c); {
		case v.Kind != decoder.Text:
			to = append(to, nil)
		case v.Data == nil:
			to = append(to, []byte{}) // the empty text is not null
		default:
			to = append(to, v.Data)
		}
	}
	return to
}

// shape determines what a change does to each column.
func (t *table) shape(c *decoder.Change, assert bool, s shape) (shape, error) {
	n := len(t.columns)
	if c.Op != decoder.Insert && c.Op != decoder.Update && c.Op != decoder.Delete {
		return nil, &inputError{fmt.Sprintf("read change of %s: unknown operation %q", t.label(), c.Op)}
	}
	if (c.Op != decoder.Delete && len(c.New) != n) || (c.Old != nil && len(c.Old) != n) || (c.Op == decoder.Delete && c.Old == nil) {
		return nil, &inputError{fmt.Sprintf("read %c of %s: the row does not have the %d columns of its relation", c.Op, t.label(), n)}
	}
	by := byte(byNew)
	if c.Op != decoder.Insert && c.Old != nil {
		by = byOld
	}
	who := byte(counted)
	if assert && (c.Op != decoder.Insert || t.watched || t.partitioned) { // otherwise an INSERT that does not fail inserts its row
		who = asserted
	}
	s = append(s, byte(c.Op), by, who)
	for i := range t.columns {
		var flags byte
		if c.Op != decoder.Delete && t.sets(c, i) {
			if c.Op == decoder.Insert && c.New[i].Kind == decoder.Unchanged {
				return nil, &inputError{fmt.Sprintf("read I of %s: column %s has no value", t.label(), t.relation.Columns[i].Name)}
			}
			flags |= set
		}
		if c.Op != decoder.Insert && t.matches(i) {
			switch row := where(c, by); {
			case row[i].Kind == decoder.Null:
				flags |= isNull
			case row[i].Kind == decoder.Unchanged:
				return nil, &ConflictError{Kind: UnknownKey}
			}
		}
		s = append(s, flags)
	}
	if c.Op != decoder.Insert {
		switch {
		case t.key != nil:
		case t.relation.ReplicaIdentity != decoder.IdentityFull:
			return nil, &SchemaError{Reason: "the source's table has no replica identity"}
		case !c.OldFull:
			return nil, &inputError{fmt.Sprintf("read %c of %s: no old row despite REPLICA IDENTITY FULL", c.Op, t.label())}
		}
	}
	return s, nil
}

// where returns the row that describes the row to find.
func where(c *decoder.Change, by byte) []decoder.Value {
	if by == byOld {
		return c.Old
	}
	return c.New
}

// matches reports whether column i is compared to find the row.
func (t *table) matches(i int) bool { return t.key == nil || t.columns[i].key }

// sets reports whether INSERT or UPDATE writes column i. An UPDATE leaves out what is known to be
// unchanged only where it must: of keys, which may be GENERATED ALWAYS and are referenced, and of
// other identity columns. Leaving out more would make a statement for each set of columns that
// changed together.
func (t *table) sets(c *decoder.Change, i int) bool {
	column := &t.columns[i]
	switch {
	case column.generated:
		return false
	case c.Op == decoder.Insert:
		return true
	case c.New[i].Kind == decoder.Unchanged:
		return false
	case c.Old == nil:
		return !column.key
	case column.key || (c.OldFull && column.always):
		return c.New[i].Kind != c.Old[i].Kind || !bytes.Equal(c.New[i].Data, c.Old[i].Data)
	}
	return true
}

// build writes the SQL for a shape.
func (t *table) build(s shape) *statement {
	b := builder{table: t, shape: s}
	var with, sql string
	returns := false // it returns a row for each that it affects
	switch op := decoder.Op(s[0]); {
	case op == decoder.Insert:
		sql = b.insert()
	case op == decoder.Delete:
		sql = "delete from " + b.only() + b.where()
	case len(b.written(true)) > 0:
		with, sql = b.replace()
		returns = true
	default:
		sql = b.update("")
		returns = len(b.written(false)) == 0
	}
	switch {
	case s[2] == asserted:
		sql = assert(with, sql, returns, "1")
	case with != "":
		sql = "with " + with + "\n" + sql
	}
	return &statement{sql: sql, args: b.args}
}

// assert makes a statement divide by zero unless it affects so many rows. with is what its WITH
// clause already has: everything that modifies data must be there.
func assert(with, sql string, returns bool, rows string) string {
	if !returns {
		sql += " returning 1"
	}
	if with != "" {
		with += ",\n"
	}
	return "with " + with + "done as (" + sql + ") select 1/(count(*) = " + rows + ")::int from done"
}

// builder writes one statement.
type builder struct {
	table *table
	shape shape
	args  []arg
}

// param is the parameter for a value of the new row, or of the row to find.
func (b *builder) param(column int, old bool) string {
	a := arg{column: column, old: old}
	n := slices.Index(b.args, a)
	if n < 0 {
		n = len(b.args)
		b.args = append(b.args, a)
	}
	return "$" + strconv.Itoa(n+1)
}

// cast is param with a cast to the column's type, which is needed wherever the context does not
// determine it.
func (b *builder) cast(column int, old bool) string {
	return b.param(column, old) + "::" + b.table.columns[column].typ
}

func (b *builder) flags(column int) byte { return b.shape[shapeHead+column] }

// only is the table without the tables that inherit from it. A partitioned table has no rows of its
// own.
func (b *builder) only() string { return b.table.only() }

func (t *table) only() string {
	if t.partitioned {
		return t.sql
	}
	return "only " + t.sql
}

// written returns the columns to be written: either the identity columns that are GENERATED ALWAYS,
// which an UPDATE cannot write, or the others.
func (b *builder) written(always bool) []int {
	var columns []int
	for i := range b.table.columns {
		if b.flags(i)&set != 0 && b.table.columns[i].always == always {
			columns = append(columns, i)
		}
	}
	return columns
}

func (b *builder) insert() string {
	var names, values []string
	for i := range b.table.columns {
		if b.flags(i)&set != 0 {
			names = append(names, b.table.columns[i].name)
			values = append(values, b.param(i, false))
		}
	}
	if len(names) == 0 {
		return "insert into " + b.table.sql + " default values"
	}
	return "insert into " + b.table.sql + " (" + strings.Join(names, ", ") + ") overriding system value values (" + strings.Join(values, ", ") + ")"
}

// update changes the row, or only makes sure that it exists if nothing is left to write. The
// additional condition may be empty.
func (b *builder) update(condition string) string {
	var assignments []string
	for _, i := range b.written(false) {
		assignments = append(assignments, b.table.columns[i].name+" = "+b.param(i, false))
	}
	if len(assignments) == 0 {
		return "select 1 from " + b.only() + b.where() + condition + " for update"
	}
	return "update " + b.only() + " set " + strings.Join(assignments, ", ") + b.where() + condition
}

// replace is an UPDATE that may change a column that is GENERATED ALWAYS AS IDENTITY, which only an
// INSERT can give a value. The row is deleted and inserted if the column changed, which the source
// does not always say, and updated otherwise.
func (b *builder) replace() (with, sql string) {
	update := b.update(" and " + b.same())
	if len(b.written(false)) > 0 {
		update += " returning 1"
	}
	var names, values []string
	for i := range b.table.columns {
		column := &b.table.columns[i]
		switch {
		case column.generated:
			continue
		case b.flags(i)&set != 0:
			values = append(values, b.cast(i, false))
		default:
			values = append(values, "gone."+column.name)
		}
		names = append(names, column.name)
	}
	for _, name := range b.table.extra {
		names = append(names, name)
		values = append(values, "gone."+name)
	}
	with = "kept as (" + update + "),\n" +
		"gone as (delete from " + b.only() + b.where() + " and not " + b.same() + " returning *),\n" +
		"put as (insert into " + b.table.sql + " (" + strings.Join(names, ", ") + ") overriding system value select " +
		strings.Join(values, ", ") + " from gone returning 1)"
	return with, "select 1 from kept union all select 1 from put"
}

// same is true if the identity columns already have their new values.
func (b *builder) same() string {
	var conditions []string
	for _, i := range b.written(true) {
		conditions = append(conditions, b.table.columns[i].name+" = "+b.cast(i, false))
	}
	return "(" + strings.Join(conditions, " and ") + ")"
}

// where finds the row: by the columns of the key, or by all columns, and then it takes one of the
// rows that are equal.
func (b *builder) where() string {
	var conditions []string
	old := b.shape[1] == byOld
	for i := range b.table.columns {
		if b.table.matches(i) {
			conditions = append(conditions, b.match(i, old))
		}
	}
	all := strings.Join(conditions, " and ")
	if b.table.key != nil {
		return " where " + all
	}
	if all == "" {
		all = "true"
	}
	if b.table.partitioned {
		return " where (tableoid, ctid) = (select tableoid, ctid from " + b.only() + " where " + all + " limit 1)"
	}
	return " where ctid = (select ctid from " + b.only() + " where " + all + " limit 1)"
}

// match compares one column of the row to find. For a key, equality is enough, and can use an
// index. Without a key it would confuse rows: 1.0 for 1.00, -0 for 0, 'a' for 'A' in citext; and
// some types have no equality at all. So the text of both is compared too, as the output function
// writes it.
func (b *builder) match(i int, old bool) string {
	c := &b.table.columns[i]
	if b.flags(i)&isNull != 0 {
		if c.composite {
			return c.name + " is not distinct from null" // a row of nulls does not equal null
		}
		return c.name + " is null"
	}
	value := b.cast(i, old)
	equal := c.value + " " + c.equal + " " + value + c.collate
	if c.key && c.equal != "" {
		return equal
	}
	text := "concat(" + c.name + `) collate "C" = concat(` + value + ")"
	if c.equal == "" || c.nested {
		return c.name + " is distinct from null and " + text
	}
	return equal + " and " + text
}

// truncate empties tables with one statement, as the source did: tables that reference each other
// can only be truncated together. It never cascades to tables that the source did not name.
func truncate(tables []*table, restart bool) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.only()
	}
	sql := "truncate table " + strings.Join(names, ", ")
	if restart {
		sql += " restart identity"
	}
	return sql
}
