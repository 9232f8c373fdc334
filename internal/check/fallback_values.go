package check

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

// growth is a type that takes more values from a version on.
type growth struct {
	types  []string // of pg_catalog, or of the extension of that name
	since  int
	values string
}

var grown = []growth{
	{[]string{"numeric"}, 14, "Infinity and -Infinity"},
	{[]string{"interval"}, 17, "infinity and -infinity"},
	{[]string{"jsonpath"}, 13, "the method datetime()"},
	{[]string{"jsonpath"}, 17, "the methods bigint(), boolean(), date(), decimal(), integer(), number(), string(), time() and timestamp() and their kin"},
	{[]string{"jsonpath"}, 19, "the methods lower(), upper(), replace() and their kin"},
	{[]string{"aclitem"}, 15, "the privileges s (SET) and A (ALTER SYSTEM)"},
	{[]string{"aclitem"}, 17, "the privilege m (MAINTAIN)"},
	{[]string{"ltree", "lquery"}, 16, "labels with hyphens, or longer than 255 bytes"},
}

// made lists the columns whose values have one of some types in them: also beneath domains, arrays, ranges and composite types.
const made = `
with recursive used(relid, name, oid) as (
  select a.attrelid, a.attname::text, a.atttypid from pg_attribute a
   where a.attrelid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped and coalesce(to_jsonb(a) ->> 'attgenerated', '') = ''
  union
  select u.relid, u.name, x.oid from used u join pg_type t on t.oid = u.oid cross join lateral (
    select t.typbasetype where t.typtype = 'd'
    union all select t.typelem where t.typcategory = 'A' and t.typelem <> 0
    union all select r.rngsubtype from pg_range r where r.rngtypid = t.oid
    union all select a.atttypid from pg_attribute a where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) x(oid))
select t.typname::text, n.nspname::text, c.relname::text, u.name
  from used u join pg_type t on t.oid = u.oid join pg_class c on c.oid = u.relid join pg_namespace n on n.oid = c.relnamespace
 where t.typname = any($2::text[]) and (t.typnamespace = 'pg_catalog'::regnamespace or exists (select from pg_depend d join pg_extension e on e.oid = d.refobjid
         where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e' and e.extname = 'ltree'))
   and not c.relispartition -- that of its parent is enough
 order by 1, 2, 3, 4`

// values finds columns of types that take more on the server that changes come from.
func (w *way) values(ctx context.Context) error {
	more := map[string][]string{} // by type
	for _, g := range grown {
		if w.from.Major >= g.since && w.to.Major < g.since {
			for _, name := range g.types {
				more[name] = append(more[name], g.values)
			}
		}
	}
	if len(more) == 0 {
		return nil
	}
	oids := make([]uint32, len(w.at))
	for i := range w.at {
		oids[i] = w.at[i].OID
	}
	columns := map[string][]string{}
	err := w.to.records(ctx, "types", made, func(row []string) {
		columns[row[0]] = append(columns[row[0]], catalog.Name{Schema: row[1], Name: row[2]}.String()+"."+catalog.Quote(row[3]))
	}, oids, slices.Sorted(maps.Keys(more)))
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(columns)) {
		w.add(Finding{
			ID: "values", Severity: Info, On: w.from.side, Object: "type " + name,
			Seen: fmt.Sprintf("version %d takes values that version %d of %s does not: %s; columns of it: %s", w.from.Major, w.to.Major, named(w.to.side), strings.Join(more[name], ", "), list(columns[name])),
			Do:   "let nothing use them before the way back is given up: such a value interrupts it, until the row is another one on both sides",
		})
	}
	return nil
}
