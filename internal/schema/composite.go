package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// attribute is one of a composite type: its name and type.
type attribute struct{ name, typ string }

// attributes lists those of composite types by the type's name. $1 are the types to begin with;
// those within arrays, domains, ranges and other composites are followed.
func attributes(ctx context.Context, q catalog.Querier, types string, args ...any) (map[string][]attribute, error) {
	rows, err := q.Query(ctx, `
with recursive parts(oid) as (
  `+types+`
  union
  select x.oid from parts p join pg_catalog.pg_type t on t.oid = p.oid cross join lateral (
    select t.typbasetype union all select t.typelem union all select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid
    union all select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) x(oid)
   where x.oid <> 0)
select format_type(t.oid, null), a.attname::text, format_type(a.atttypid, a.atttypmod)
  from parts p join pg_catalog.pg_type t on t.oid = p.oid and t.typtype = 'c'
  join pg_catalog.pg_class c on c.oid = t.typrelid and c.relkind = 'c'
  join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 order by t.oid, a.attnum`, args...)
	if err != nil {
		return nil, fmt.Errorf("list attributes of types: %w", err)
	}
	found := map[string][]attribute{}
	var name string
	var a attribute
	_, err = pgx.ForEachRow(rows, []any{&name, &a.name, &a.typ}, func() error {
		found[name] = append(found[name], a)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list attributes of types: %w", err)
	}
	return found, nil
}

// composites compares the attributes of the composite types that the tables use: a row of one has
// them in their order, and one more or fewer does not fit.
func (c *comparison) composites(ctx context.Context, source, target catalog.Querier, tables []catalog.Table) error {
	oids := make([]uint32, len(tables))
	for i := range tables {
		oids[i] = tables[i].OID
	}
	from, err := attributes(ctx, source, `select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped`, oids)
	if err != nil || len(from) == 0 {
		return err
	}
	to, err := attributes(ctx, target, `select t.oid from pg_catalog.pg_type t where t.typtype = 'c'`)
	if err != nil {
		return err
	}
	var names []string
	for name := range from {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if to[name] == nil {
			continue // then the column's type differs, and has been listed
		}
		same := func(a, b attribute) bool { return a.name == b.name && (a.typ == b.typ || fits(a.typ, b.typ)) }
		if !slices.EqualFunc(from[name], to[name], same) {
			c.add("", "", "type "+name+" is "+attributeList(from[name])+" on the source and "+attributeList(to[name])+" on the target", "")
		}
	}
	return nil
}

func attributeList(list []attribute) string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.name + " " + a.typ
	}
	return "(" + strings.Join(texts, ", ") + ")"
}
