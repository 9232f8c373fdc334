package applier

import (
	"strconv"
	"strings"

	"github.com/walferry/walferry/decoder"
)

// setStatement returns the statement that applies any number of changes of one shape to different
// rows, or nil if there is none: if a row has no value to be listed, or is only looked up. Where
// the statement for one change has a value it has an array, and both convert the same text by the
// same input function:
//
//   - a text[], whose elements are cast to the column's type. That needs no quotes and
//     holds arrays, too, which unnest would otherwise take apart.
//   - an array of the type where a cast from text is a function of its own, which
//     need not be the input function ("char" takes the first byte of what it writes).
func (t *table) setStatement(s shape) *statement {
	if known, ok := t.setStatements[string(s)]; ok {
		return known
	}
	if len(t.setStatements) >= 2*preparedMax {
		clear(t.setStatements)
	}
	built := t.buildSet(s)
	t.setStatements[string(s)] = built
	return built
}

func (t *table) buildSet(s shape) *statement {
	b := setBuilder{builder: builder{table: t, shape: s}}
	var sql string
	switch decoder.Op(s[0]) {
	case decoder.Insert:
		sql = b.insert()
	case decoder.Update:
		sql = b.update()
	case decoder.Delete:
		sql = "delete from " + b.only() + " t using " + source + b.where()
	}
	if len(b.args) == 0 || sql == "" {
		return nil
	}
	var arrays, names []string
	var formats []int16
	for i, a := range b.args {
		c := &t.columns[a.column]
		typ, format := "text", int16(binaryFormat)
		if c.castFunction {
			typ, format = c.typ, textFormat
		}
		arrays = append(arrays, "$"+strconv.Itoa(i+1)+"::"+typ+"[]")
		names = append(names, "p"+strconv.Itoa(i+1))
		formats = append(formats, format)
	}
	from := "unnest(" + strings.Join(arrays, ", ") + ") v(" + strings.Join(names, ", ") + ")"
	sql = strings.Replace(sql, source, from, 1)
	if s[2] == asserted {
		sql = assert("", sql, false, "cardinality("+arrays[0]+")")
	}
	return &statement{sql: sql, args: b.args, formats: formats}
}

// source is a placeholder for the list of rows until all its columns are known. It is not SQL.
const source = "\x00"

// setBuilder writes a statement for a set: t is the table, v the list of rows.
type setBuilder struct{ builder }

// value is the value of the new row, or of the row to find.
func (b *setBuilder) value(column int, old bool) string {
	v := "v.p" + b.param(column, old)[1:]
	if c := &b.table.columns[column]; !c.castFunction {
		v += "::" + c.typ
	}
	return v
}

func (b *setBuilder) insert() string {
	var names, values []string
	for i := range b.table.columns {
		if b.flags(i)&set != 0 {
			names = append(names, b.table.columns[i].name)
			values = append(values, b.value(i, false))
		}
	}
	return "insert into " + b.table.sql + " (" + strings.Join(names, ", ") + ") overriding system value select " +
		strings.Join(values, ", ") + " from " + source
}

func (b *setBuilder) update() string {
	var assignments []string
	for _, i := range b.written(false) {
		assignments = append(assignments, b.table.columns[i].name+" = "+b.value(i, false))
	}
	if len(assignments) == 0 || len(b.written(true)) > 0 {
		return ""
	}
	return "update " + b.only() + " t set " + strings.Join(assignments, ", ") + " from " + source + b.where()
}

// where finds the row of each change by its key.
func (b *setBuilder) where() string {
	var conditions []string
	for _, i := range b.table.key {
		c := &b.table.columns[i]
		conditions = append(conditions, "t."+c.value+" "+c.equal+" "+b.value(i, b.shape[1] == byOld)+c.collate)
	}
	return " where " + strings.Join(conditions, " and ")
}
