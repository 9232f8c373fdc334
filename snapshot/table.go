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

// Table is a table to copy: its name on the source, and on the target.
type Table struct {
	Schema, Name string

	// TargetSchema and TargetName are its name on the target. Empty: the same.
	TargetSchema, TargetName string
}

// String returns the name on the source, as people write it.
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

// matched is a table that was looked up on both sides and matches.
type matched struct {
	Table
	source  *relation
	target  string   // quoted
	columns []string // quoted; those that are copied, in the source's order
	binary  bool

	mixedBy []string // quoted columns of the key, if there are pieces of several snapshots
}

// filenode returns where the source stores the rows; it changes when they are rewritten.
func (m *matched) filenode() string { return strconv.FormatUint(uint64(m.source.filenode), 10) }

// match looks up the tables on both sides and matches their columns by name. Partitioned tables of
// the source are left out: they have no rows of their own.
func match(ctx context.Context, source, target *pgx.Conn, tables []Table) ([]*matched, error) {
	var schemas, names, targetSchemas, targetNames []string
	for _, t := range tables {
		schema, name := t.target()
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
		targetSchemas, targetNames = append(targetSchemas, schema), append(targetNames, name)
	}
	sources, err := relations(ctx, source, selectSize, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	targets, err := relations(ctx, target, withoutSize, targetSchemas, targetNames)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}

	var all []*matched
	var differences []string
	seen := map[catalog.Name]bool{}
	for i, t := range tables {
		key := catalog.Name{Schema: t.Schema, Name: t.Name}
		from, to := sources[key], targets[catalog.Name{Schema: targetSchemas[i], Name: targetNames[i]}]
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
			if from.binaryForm == "" || from.binaryForm != target.columns[i].binaryForm {
				m.binary = false
			}
		}
	}
	return differences
}

// copyOut returns the command that reads a piece; bounds is a predicate or empty.
func (m *matched) copyOut(bounds string) string {
	if bounds == "" {
		// COPY of a table, unlike of a query, only reads its own rows, without an executor.
		return fmt.Sprintf("copy %s (%s) to stdout%s", m.source, strings.Join(m.columns, ", "), m.format())
	}
	return fmt.Sprintf("copy (select %s from only %s where %s) to stdout%s", strings.Join(m.columns, ", "), m.source, bounds, m.format())
}

// copyIn returns the command that writes a piece.
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

// A table without a column to copy only has a number of rows.
func (m *matched) countOut() string { return "select count(*) from only " + m.source.String() }

func (m *matched) countIn() string {
	return "insert into " + m.target + " select from generate_series(1, $1::int8)"
}
