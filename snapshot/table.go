package snapshot

import (
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

// Table is a table to copy: on the source, and where its rows go.
type Table struct {
	Schema, Name string

	// TargetSchema and TargetName say what it is called on the target. Empty: the same.
	TargetSchema, TargetName string
}

// String is the name on the source, as people write it.
func (t Table) String() string { return t.Schema + "." + t.Name }

func (t Table) target() (schema, name string) {
	schema, name = t.TargetSchema, t.TargetName
	if schema == "" {
		schema = t.Schema
	}
	if name == "" {
		name = t.Name
	}
	return schema, name
}

// matched is a table whose two sides were looked up and agree.
type matched struct {
	Table
	source   *catalog.Table
	target   string   // quoted
	columns  []string // quoted; those that travel, in the source's order
	binary   bool
	filenode uint32 // as of the snapshot
	heap     bool   // rows have places, ctids, that can be cut by ranges
}

// match finds the tables on both sides and their columns by name. Partitioned
// tables are left out, they have no rows of their own.
func match(tables []Table, source, target []catalog.Table) ([]*matched, error) {
	sources, targets := byName(source), byName(target)
	var all []*matched
	var differences []string
	seen := map[Table]bool{}
	for _, t := range tables {
		key := Table{Schema: t.Schema, Name: t.Name}
		if seen[key] {
			differences = append(differences, fmt.Sprintf("%s is listed twice", t))
			continue
		}
		seen[key] = true
		from := sources[[2]string{t.Schema, t.Name}]
		if from == nil {
			differences = append(differences, fmt.Sprintf("%s is not a table of the source", t))
			continue
		}
		if from.Kind == 'p' {
			continue
		}
		schema, name := t.target()
		to := targets[[2]string{schema, name}]
		if to == nil {
			differences = append(differences, fmt.Sprintf("%s: %s.%s is not a table of the target", t, schema, name))
			continue
		}
		m := &matched{Table: t, source: from, target: to.String(), binary: true}
		differences = append(differences, m.match(to)...)
		all = append(all, m)
	}
	if len(differences) > 0 {
		return nil, &SchemaError{Differences: differences}
	}
	return all, nil
}

func byName(tables []catalog.Table) map[[2]string]*catalog.Table {
	named := make(map[[2]string]*catalog.Table, len(tables))
	for i := range tables {
		named[[2]string{tables[i].Schema, tables[i].Name}] = &tables[i]
	}
	return named
}

func (m *matched) match(target *catalog.Table) (differences []string) {
	targets := make(map[string]*catalog.Column, len(target.Columns))
	for i := range target.Columns {
		targets[target.Columns[i].Name] = &target.Columns[i]
	}
	for i := range m.source.Columns {
		from := &m.source.Columns[i]
		if from.Generated != 0 {
			continue
		}
		to := targets[from.Name]
		switch {
		case to == nil:
			differences = append(differences, fmt.Sprintf("%s: the target has no column %q", m, from.Name))
		case to.Generated != 0:
			differences = append(differences, fmt.Sprintf("%s: column %q is generated on the target", m, from.Name))
		default:
			m.columns = append(m.columns, catalog.Quote(from.Name))
			if from.TypeOID != to.TypeOID || !sameBinary[from.TypeOID] {
				m.binary = false
			}
		}
	}
	return differences
}

// sameBinary are the built-in types whose binary form is the same in versions 10
// to 18 and holds nothing that belongs to one database, such as an OID of a user's type. Binary
// spares both servers the conversion; what is not listed travels as text.
var sameBinary = func() map[uint32]bool {
	types := map[uint32]bool{}
	for _, oid := range []uint32{
		16, 1000, // bool, and its array
		17, 1001, // bytea
		18,       // "char"
		20, 1016, // int8
		21, 1005, // int2
		23, 1007, // int4
		25, 1009, // text
		114, 199, // json
		700, 1021, // float4
		701, 1022, // float8
		829, 774, // macaddr, macaddr8
		869, 650, // inet, cidr
		1042, 1014, // bpchar
		1043, 1015, // varchar
		1082, 1182, // date
		1083, 1183, // time
		1114, 1115, // timestamp
		1184, 1185, // timestamptz
		1186, 1187, // interval
		1266, 1270, // timetz
		1560, 1562, // bit, varbit
		1700, 1231, // numeric
		2950, 2951, // uuid
		3220,       // pg_lsn
		3802, 3807, // jsonb
		3904, 3906, 3908, 3910, 3912, 3926, // ranges: int4, num, ts, tstz, date, int8
	} {
		types[oid] = true
	}
	return types
}()

// copyOut is the command that reads a piece; bounds is a predicate or empty.
func (m *matched) copyOut(bounds string) string {
	if bounds == "" {
		// COPY of a table, unlike a query, reads its own rows only, without an executor.
		return fmt.Sprintf("copy %s (%s) to stdout%s", m.source, strings.Join(m.columns, ", "), m.format())
	}
	return fmt.Sprintf("copy (select %s from only %s where %s) to stdout%s", strings.Join(m.columns, ", "), m.source, bounds, m.format())
}

// copyIn is the command that writes a piece.
func (m *matched) copyIn() string {
	return fmt.Sprintf("copy %s (%s) from stdin%s", m.target, strings.Join(m.columns, ", "), m.format())
}

func (m *matched) format() string {
	if m.binary {
		return " (format binary)"
	}
	return ""
}

// A table without a column that travels has a number of rows and nothing else.
func (m *matched) countOut() string { return "select count(*) from only " + m.source.String() }

func (m *matched) countIn() string {
	return "insert into " + m.target + " select from generate_series(1, $1::int8)"
}
