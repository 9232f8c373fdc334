package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Difference is a reason why rows of the source may not fit into the target.
type Difference struct {
	Table   string // as SQL; empty for what is not of a table
	Column  string // empty for what is not of a column
	Problem string
	SQL     string // what would fix it on the target; empty where there is no single statement
	// Always: it concerns whatever is written to the table, and not only some values.
	Always bool
}

func (d Difference) String() string {
	text := d.Problem
	if d.Column != "" {
		text = "column " + catalog.Quote(d.Column) + ": " + text
	}
	if d.Table != "" {
		text = d.Table + ": " + text
	}
	return text
}

// Compare returns what keeps the rows of the source's tables from being copied and followed into
// the target's: tables, columns, enum labels and extensions that the target lacks, columns of
// another type, stricter, or generated otherwise, and keys that differ. tables are those of the
// source. Anything more on the target is fine as long as it has a default or may be null, and so is
// a wider type.
func Compare(ctx context.Context, source, target catalog.Querier, tables []catalog.Table) ([]Difference, error) {
	there, err := catalog.Tables(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("compare schemas: target: %w", err)
	}
	byName := map[string]*catalog.Table{}
	for i := range there {
		byName[there[i].String()] = &there[i]
	}
	var c comparison
	for _, side := range []struct {
		q  catalog.Querier
		to *map[string]column
	}{{source, &c.source}, {target, &c.target}} {
		if *side.to, err = columnDetails(ctx, side.q); err != nil {
			return nil, fmt.Errorf("compare schemas: %w", err)
		}
	}
	for i := range tables {
		s := &tables[i]
		t := byName[s.String()]
		if t == nil {
			c.addAlways(s.String(), "", "the target has no such table", "")
			continue
		}
		c.table(s, t)
	}
	if err := c.enums(ctx, source, target); err != nil {
		return nil, fmt.Errorf("compare schemas: %w", err)
	}
	if err := c.composites(ctx, source, target, tables); err != nil {
		return nil, fmt.Errorf("compare schemas: %w", err)
	}
	if err := c.extensions(ctx, source, target, tables); err != nil {
		return nil, fmt.Errorf("compare schemas: %w", err)
	}
	return c.differences, nil
}

// column is what catalog.Column does not have: the type beneath a domain, and the enum that it is
// in the end.
type column struct {
	base string // format_type of the base type with its modifier
	enum string // name of the enum type beneath domains and arrays; empty: none
	// loose: its collation considers texts equal that differ.
	loose bool
}

func columnDetails(ctx context.Context, q catalog.Querier) (map[string]column, error) {
	major, err := catalog.Major(ctx, q)
	if err != nil {
		return nil, err
	}
	loose := "false"
	if major >= 12 {
		loose = "exists (select from pg_catalog.pg_collation l where l.oid = a.attcollation and not l.collisdeterministic)"
	}
	rows, err := q.Query(ctx, `
with recursive base(root, oid, typmod) as (
  select t.oid, t.oid, -1 from pg_catalog.pg_type t where t.typtype = 'd'
  union all
  select b.root, t.typbasetype, t.typtypmod from base b join pg_catalog.pg_type t on t.oid = b.oid where t.typtype = 'd')
select `+quoted("n.nspname", "c.relname")+` || '.' || a.attname,
       format_type(coalesce(b.oid, a.atttypid), coalesce(b.typmod, a.atttypmod)),
       coalesce((select format_type(e.oid, null) from pg_catalog.pg_type t
          join pg_catalog.pg_type e on e.oid = t.oid or e.oid = t.typelem where t.oid = coalesce(b.oid, a.atttypid) and e.typtype = 'e'), ''),
       `+loose+`
  from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join (select b.* from base b join pg_catalog.pg_type t on t.oid = b.oid where t.typtype <> 'd') b on b.root = a.atttypid
 where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p') and `+catalog.NotOurs)
	if err != nil {
		return nil, fmt.Errorf("list columns: %w", err)
	}
	found := map[string]column{}
	var id string
	var c column
	_, err = pgx.ForEachRow(rows, []any{&id, &c.base, &c.enum, &c.loose}, func() error {
		found[id] = c
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list columns: %w", err)
	}
	return found, nil
}

type comparison struct {
	source, target map[string]column
	enumsUsed      []string
	differences    []Difference
}

func (c *comparison) add(table, column, problem, sql string) {
	c.differences = append(c.differences, Difference{Table: table, Column: column, Problem: problem, SQL: sql})
}

// addAlways adds what concerns every row.
func (c *comparison) addAlways(table, column, problem, sql string) {
	c.add(table, column, problem, sql)
	c.differences[len(c.differences)-1].Always = true
}

func (c *comparison) table(s, t *catalog.Table) {
	name := s.String()
	if s.Kind != t.Kind {
		kinds := map[byte]string{'r': "an ordinary", 'p': "a partitioned"}
		// Rows of a leaf go to the leaf of that name.
		c.add(name, "", fmt.Sprintf("is %s table on the source and %s one on the target", kinds[s.Kind], kinds[t.Kind]), "")
		if s.Kind == 'p' {
			return
		}
	}
	if t.Persistence == 'u' && s.Persistence == 'p' {
		c.add(name, "", "is unlogged on the target: a crash empties it", "alter table "+name+" set logged")
	}
	for i := range s.Columns {
		sc := &s.Columns[i]
		at := slices.IndexFunc(t.Columns, func(x catalog.Column) bool { return x.Name == sc.Name })
		if at < 0 {
			if sc.Generated == 0 {
				c.addAlways(name, sc.Name, "is missing on the target", "alter table "+name+" add column "+catalog.Quote(sc.Name)+" "+sc.Type)
			}
			continue
		}
		c.column(name, sc, &t.Columns[at])
	}
	for i := range t.Columns {
		tc := &t.Columns[i]
		if slices.ContainsFunc(s.Columns, func(x catalog.Column) bool { return x.Name == tc.Name }) {
			continue
		}
		if tc.NotNull && !tc.Default && tc.Identity == 0 && tc.Generated == 0 {
			c.addAlways(name, tc.Name, "is on the target only, is not null and has no default",
				"alter table "+name+" alter column "+catalog.Quote(tc.Name)+" drop not null")
		}
	}
	c.keys(name, s, t)
}

func (c *comparison) column(table string, s, t *catalog.Column) {
	alter := "alter table " + table + " alter column " + catalog.Quote(s.Name) + " "
	switch {
	case s.Generated == 0 && t.Generated != 0:
		c.addAlways(table, s.Name, "is generated on the target and not on the source", alter+"drop expression")
		return
	case s.Generated != 0 && t.Generated == 0:
		c.addAlways(table, s.Name, "is generated on the source only: its values would not travel", "")
		return
	case s.Generated != 0:
		return // each side computes its own
	}
	id := table + "." + s.Name // as in columnDetails
	from, to := c.source[id], c.target[id]
	if from.enum != "" {
		c.enumsUsed = append(c.enumsUsed, from.enum)
	}
	if s.Type != t.Type && !fits(from.base, to.base) {
		c.add(table, s.Name, "is "+s.Type+" on the source and "+t.Type+" on the target", alter+"type "+s.Type)
	}
	if t.NotNull && !s.NotNull {
		c.add(table, s.Name, "is not null on the target only", alter+"drop not null")
	}
}

// wider lists, for types whose text form is the same, what takes every value of the other.
var wider = map[string][]string{
	"smallint": {"integer", "bigint", "numeric"},
	"integer":  {"bigint", "numeric"},
	"bigint":   {"numeric"},
	"json":     {"text"},
}

// fits reports whether every text of a value of one type is one of the other.
func fits(from, to string) bool {
	if from == to || slices.Contains(wider[from], to) {
		return true
	}
	name, length, sized := strings.Cut(from, "(")
	toName, toLength, toSized := strings.Cut(to, "(")
	switch {
	case name == "character varying" && to == "text", from == "text" && to == "character varying":
		return true
	case name != toName || name != "character varying" && name != "numeric":
		return false
	case !toSized:
		return true
	case !sized:
		return false
	}
	var have, want [2]int // length, or precision and scale
	fmt.Sscanf(length, "%d,%d", &have[0], &have[1])
	fmt.Sscanf(toLength, "%d,%d", &want[0], &want[1])
	return want[0]-want[1] >= have[0]-have[1] && want[1] >= have[1]
}

// keys compares what updates and deletes find a row by. An index on the target
// need not be unique for that, but without any the table is read for every change.
func (c *comparison) keys(name string, s, t *catalog.Table) {
	if len(s.Identity) > 0 && !sameColumns(s.Identity, t.PrimaryKey) && !sameColumns(s.Identity, t.Identity) {
		c.add(name, "", "the target has no key of the columns "+strings.Join(s.Identity, ", ")+", which identify a row on the source", "")
	}
	for _, column := range s.Identity {
		if id := name + "." + column; c.target[id].loose && !c.source[id].loose {
			c.add(name, column, "identifies a row on the source, and its collation on the target considers texts equal that the source tells apart", "")
		}
	}
	if len(t.PrimaryKey) > 0 && !sameColumns(t.PrimaryKey, s.PrimaryKey) && !sameColumns(t.PrimaryKey, s.Identity) {
		c.add(name, "", "the target's primary key ("+strings.Join(t.PrimaryKey, ", ")+") is not one of the source, which may have rows it refuses", "")
	}
}

func sameColumns(a, b []string) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x string) bool { return !slices.Contains(b, x) })
}

// enums compares the labels of the enums that are used.
func (c *comparison) enums(ctx context.Context, source, target catalog.Querier) error {
	labels := func(q catalog.Querier) (map[string][]string, error) {
		rows, err := q.Query(ctx, `select format_type(enumtypid, null), enumlabel::text from pg_catalog.pg_enum order by 1, enumsortorder`)
		if err != nil {
			return nil, fmt.Errorf("list enum labels: %w", err)
		}
		found := map[string][]string{}
		var name, label string
		_, err = pgx.ForEachRow(rows, []any{&name, &label}, func() error {
			found[name] = append(found[name], label)
			return nil
		})
		return found, err
	}
	from, err := labels(source)
	if err != nil {
		return err
	}
	to, err := labels(target)
	if err != nil {
		return err
	}
	slices.Sort(c.enumsUsed)
	for _, name := range slices.Compact(c.enumsUsed) {
		if to[name] == nil {
			continue // then the column's type differs, and has been listed
		}
		for _, label := range from[name] {
			if !slices.Contains(to[name], label) {
				c.add("", "", "enum "+name+" has no label "+catalog.Literal(label)+" on the target", "alter type "+name+" add value "+catalog.Literal(label))
			}
		}
	}
	return nil
}

// extensions looks for those whose types the tables use.
func (c *comparison) extensions(ctx context.Context, source, target catalog.Querier, tables []catalog.Table) error {
	present, err := presentExtensions(ctx, target)
	if err != nil {
		return err
	}
	oids := make([]uint32, len(tables))
	for i := range tables {
		oids[i] = tables[i].OID
	}
	rows, err := source.Query(ctx, `
select distinct e.extname::text from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_type'::regclass and d.objid in (t.oid, t.typelem, t.typbasetype) and d.deptype = 'e'
  join pg_catalog.pg_extension e on e.oid = d.refobjid
 where a.attrelid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped order by 1`, oids)
	if err != nil {
		return fmt.Errorf("list extensions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list extensions: %w", err)
	}
	for _, name := range names {
		if !present[name] {
			c.add("", "", "the target has no extension "+catalog.Quote(name), "create extension "+catalog.Quote(name))
		}
	}
	return nil
}
