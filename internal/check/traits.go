package check

import (
	"context"
	"fmt"
	"slices"

	"github.com/walferry/walferry/internal/catalog"
)

// tableTraits finds what cannot be moved, or not as it is.
func (r *run) tableTraits(ctx context.Context) error {
	var unlogged, oids []Finding
	for i := range r.tables {
		t := &r.tables[i]
		if t.Persistence == 'u' && t.Kind == 'r' {
			unlogged = append(unlogged, Finding{
				ID: "unlogged-table", Severity: Block, On: "source", Object: t.String(),
				Seen: "an unlogged table: its changes are not in the WAL and it cannot be published",
				Do:   "make it logged, which rewrites it, or --exclude it",
				SQL:  []string{fmt.Sprintf("alter table %s set logged", t)},
			})
		}
		if t.WithOIDs && r.target.Major >= 12 {
			oids = append(oids, Finding{
				ID: "with-oids", Severity: Block, On: "source", Object: t.String(),
				Seen: "created WITH OIDS, which the target does not support: the oids of its rows would be lost",
				Do:   "keep the oid in a column of its own if anything reads it, then drop it (ACCESS EXCLUSIVE; 10 and 11 rewrite the table)",
				SQL:  []string{fmt.Sprintf("alter table %s set without oids", t)},
			})
		}
	}
	r.addEach(unlogged)
	r.addEach(oids)
	r.columnTypes()
	if err := r.largeObjects(ctx); err != nil {
		return err
	}
	return r.otherRelations(ctx)
}

// removed are the types that version 12 removed.
var removed = []string{"abstime", "reltime", "tinterval", "abstime[]", "reltime[]", "tinterval[]"}

// columnTypes finds types whose values mean nothing on another server, and types that it lacks.
func (r *run) columnTypes() {
	var gone, oids []Finding
	for i := range r.tables {
		t := &r.tables[i]
		for j := range t.Columns {
			c := &t.Columns[j]
			switch {
			case r.target.Major >= 12 && slices.Contains(removed, c.TypeName):
				gone = append(gone, Finding{
					ID: "removed-type", Severity: Block, On: "source", Object: t.String(),
					Seen: fmt.Sprintf("column %s is of type %s, which version 12 has removed", catalog.Quote(c.Name), c.TypeName),
					Do:   "change its type, which rewrites the table",
					SQL:  []string{retype(t, c)},
				})
			case slices.Contains([]string{"oid", "lo", "public.lo", "xid", "cid", "tid", "xid8"}, c.TypeName):
				oids = append(oids, Finding{
					ID: "oid-column", Severity: Warn, On: "source", Object: t.String(),
					Seen: fmt.Sprintf("column %s is of type %s: the number is copied, but it may refer to something else on the target",
						catalog.Quote(c.Name), c.TypeName),
					Do: "nothing if the numbers are the application's own; if they refer to large objects, keep the bytes in a bytea column",
				})
			}
		}
	}
	r.addEach(gone)
	r.addEach(oids)
}

func retype(t *catalog.Table, c *catalog.Column) string {
	to := map[string]string{"abstime": "timestamptz", "reltime": "interval", "tinterval": "text"}[c.TypeName]
	if to == "" {
		to = "text[]"
	}
	if c.TypeName == "tinterval" || to == "text[]" {
		return fmt.Sprintf("alter table %s alter column %s type %s using %[2]s::text::%[3]s", t, catalog.Quote(c.Name), to)
	}
	return fmt.Sprintf("alter table %s alter column %s type %s", t, catalog.Quote(c.Name), to)
}

func (r *run) largeObjects(ctx context.Context) error {
	var count int64
	if err := r.source.tx.QueryRow(ctx, `select count(*) from pg_largeobject_metadata`).Scan(&count); err != nil {
		return fmt.Errorf("count large objects: %w", err)
	}
	if count > 0 {
		r.add(Finding{
			ID: "large-objects", Severity: Warn, On: "source",
			Seen: fmt.Sprintf("the database has %d large objects: logical decoding does not carry them, and they are not migrated", count),
			Do:   "move what is needed into bytea columns (lo_get), or move them by hand inside the fence; unlink those that nothing refers to",
		})
	}
	return nil
}

// otherRelations finds relations that hold no rows to be followed.
func (r *run) otherRelations(ctx context.Context) error {
	kinds := map[string][]string{}
	err := r.source.records(ctx, "relations", `
select c.relkind::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('f', 'm') and `+catalog.NotOurs+`
   and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1, 2`, func(row []string) { kinds[row[0]] = append(kinds[row[0]], row[1]) })
	if err != nil {
		return err
	}
	if names := kinds["f"]; len(names) > 0 {
		r.add(Finding{
			ID: "foreign-tables", Severity: Info, On: "source",
			Seen: "there are foreign tables: " + list(names),
			Do:   "their rows are elsewhere and are not migrated; the passwords of user mappings may have to be set again on the target",
		})
	}
	if names := kinds["m"]; len(names) > 0 {
		r.add(Finding{
			ID: "materialized-views", Severity: Info, On: "source",
			Seen: "there are materialized views: " + list(names),
			Do:   "they are filled on the target after the copy, not followed, and refreshed at the end of the cutover (not with --schema none)",
		})
	}
	types, err := r.source.texts(ctx, "types", `
select t.oid::regtype::text from pg_type t join pg_namespace n on n.oid = t.typnamespace
 where t.typtype = 'b' and not (t.typcategory = 'A' and t.typelem <> 0) and `+catalog.NotOurs+`
   and not exists (select from pg_depend d where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')
 order by 1`)
	if err != nil {
		return err
	}
	if len(types) > 0 {
		r.add(Finding{
			ID: "base-types", Severity: Warn, On: "source", Seen: "there are base types with functions of their own, not of an extension: " + list(types),
			Do: "the target needs the same shared library",
		})
	}
	return nil
}
