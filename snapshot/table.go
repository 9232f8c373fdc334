package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

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
	source  *relation
	target  string   // quoted
	columns []string // quoted; those that travel, in the source's order
	binary  bool

	mixedBy []string // quoted columns of the key, where pieces of several snapshots stand side by side
}

// filenode is where the source stores the rows; another one after they were rewritten.
func (m *matched) filenode() string { return strconv.FormatUint(uint64(m.source.filenode), 10) }

// match finds the tables on both sides and their columns by name. Partitioned
// tables of the source are left out, they have no rows of their own.
func match(ctx context.Context, source, target *pgx.Conn, tables []Table) ([]*matched, error) {
	var schemas, names, targetSchemas, targetNames []string
	for _, t := range tables {
		schema, name := t.target()
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
		targetSchemas, targetNames = append(targetSchemas, schema), append(targetNames, name)
	}
	sources, err := relations(ctx, source, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	targets, err := relations(ctx, target, targetSchemas, targetNames)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}

	var all []*matched
	var differences []string
	seen := map[[2]string]bool{}
	for i, t := range tables {
		key := [2]string{t.Schema, t.Name}
		from, to := sources[key], targets[[2]string{targetSchemas[i], targetNames[i]}]
		switch {
		case seen[key]:
			differences = append(differences, fmt.Sprintf("%s is listed twice", t))
		case from == nil:
			differences = append(differences, fmt.Sprintf("%s is not a table of the source", t))
		case from.partitioned:
		case to == nil:
			differences = append(differences, fmt.Sprintf("%s: %s.%s is not a table of the target", t, targetSchemas[i], targetNames[i]))
		default:
			m := &matched{Table: t, source: from, target: to.String(), binary: true}
			differences = append(differences, m.matchColumns(to)...)
			all = append(all, m)
		}
		seen[key] = true
	}
	if len(differences) > 0 {
		return nil, &SchemaError{Differences: differences}
	}
	return all, nil
}

func (m *matched) matchColumns(target *relation) (differences []string) {
	for _, from := range m.source.columns {
		if from.generated {
			continue
		}
		i := slices.IndexFunc(target.columns, func(c column) bool { return c.name == from.name })
		switch {
		case i < 0:
			differences = append(differences, fmt.Sprintf("%s: the target has no column %q", m, from.name))
		case target.columns[i].generated:
			differences = append(differences, fmt.Sprintf("%s: column %q is generated on the target", m, from.name))
		default:
			m.columns = append(m.columns, catalog.Quote(from.name))
			if from.typeOID != target.columns[i].typeOID || !sameBinary[from.typeOID] {
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
	to := m.target
	if m.mixedBy != nil {
		to = "pg_temp.walferry_piece"
	}
	return fmt.Sprintf("copy %s (%s) from stdin%s", to, strings.Join(m.columns, ", "), m.format())
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
