package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

// bigFull is the size from which REPLICA IDENTITY FULL is worth a warning: each UPDATE and DELETE
// may read the whole table on the target.
const bigFull = 64 << 20

// identities checks that the rows of an UPDATE or DELETE can be identified. A published table
// without an identity makes the application's own UPDATE fail.
func (r *run) identities(ctx context.Context) error {
	unusable, costly, err := r.source.identities(ctx, r.tables, r.insertOnly)
	if err != nil {
		return err
	}
	r.add(append(unusable, costly...)...)
	return r.insertOnlyTables(ctx)
}

// identities returns what keeps rows from being identified, and what that costs where it works.
func (s *server) identities(ctx context.Context, tables []catalog.Table, insertOnly map[uint32]bool) (unusable, costly []Finding, err error) {
	var without []uint32
	for i := range tables {
		t := &tables[i]
		if t.Kind == 'r' && t.Persistence == 'p' && !insertOnly[t.OID] && (!t.HasIdentity() || generatedIdentity(t)) {
			without = append(without, t.OID)
		}
	}
	usable, err := s.usableIndexes(ctx, tables, without)
	if err != nil {
		return nil, nil, err
	}
	var missing, generated, big, noEquality []Finding
	unequal, err := s.columnsWithoutEquality(ctx, tables)
	if err != nil {
		return nil, nil, err
	}
	for i := range tables {
		t := &tables[i]
		switch {
		case t.Kind != 'r' || t.Persistence != 'p' || insertOnly[t.OID]:
		case !t.HasIdentity():
			missing = append(missing, s.missingIdentity(t, usable[t.OID]))
		case t.ReplicaIdentity == 'f':
			// From version 18 the server rejects the application's UPDATE: the old row would lack
			// its generated columns.
			if s.Major >= 18 && len(generatedColumns(t)) > 0 {
				generated = append(generated, fixIdentity(t, usable[t.OID], Finding{
					ID: "identity-generated", Severity: Block, On: s.side, Object: t.String(),
					Seen: "REPLICA IDENTITY FULL takes in the generated column " + list(generatedColumns(t)) + ", which is not published: UPDATE and DELETE would fail",
				}, false))
				continue
			}
			if t.Bytes >= bigFull {
				big = append(big, fixIdentity(t, usable[t.OID], Finding{
					ID: "identity-full-big", Severity: Warn, On: s.side, Object: t.String(),
					Seen: fmt.Sprintf("REPLICA IDENTITY FULL on a table of %d MB: every changed row is sent whole and looked up by all its columns", t.Bytes>>20),
				}, false))
			}
			if columns := unequal[t.OID]; len(columns) > 0 {
				noEquality = append(noEquality, Finding{
					ID: "identity-no-equality", Severity: Warn, On: s.side, Object: t.String(),
					Seen: "REPLICA IDENTITY FULL, and the type of " + strings.Join(columns, ", ") + " has no equality: it is compared by its text",
					Do:   "two values that are written the same count as equal; a key avoids it",
				})
			}
		case generatedIdentity(t):
			generated = append(generated, fixIdentity(t, usable[t.OID], Finding{
				ID: "identity-generated", Severity: Block, On: s.side, Object: t.String(),
				Seen: "the replica identity has the generated column " + list(generatedColumns(t)) + ", which is not published",
			}, s.Major < 18))
		}
	}
	return append(bounded(missing), bounded(generated)...), append(bounded(big), bounded(noEquality)...), nil
}

func (s *server) missingIdentity(t *catalog.Table, indexes []string) Finding {
	f := Finding{ID: "replica-identity", Severity: Block, On: s.side, Object: t.String()}
	switch {
	case t.ReplicaIdentity == 'n':
		f.Seen = "its REPLICA IDENTITY is NOTHING"
	case t.ReplicaIdentity == 'i':
		f.Seen = "the index of its REPLICA IDENTITY is gone or not valid"
	case len(t.PrimaryKey) > 0:
		f.Seen = "its primary key is deferrable or not valid, so it cannot be the replica identity"
	default:
		f.Seen = "it has no primary key"
	}
	f.Seen += ": once published, its UPDATE and DELETE would fail"
	if t.ReplicaIdentity == 'n' && len(t.PrimaryKey) > 0 && slices.Contains(indexes, primary) {
		f.SQL = []string{fmt.Sprintf("alter table %s replica identity default", t)}
		return f
	}
	return fixIdentity(t, indexes, f, true)
}

// primary marks the primary key among the usable indexes: it comes first.
const primary = ""

// fixIdentity suggests a key if there is one, or else FULL if that helps.
func fixIdentity(t *catalog.Table, indexes []string, f Finding, full bool) Finding {
	const otherwise = "or, if it is only ever inserted into, pass it to --insert-only; or --exclude it"
	switch {
	case len(indexes) > 0 && indexes[0] == primary:
		f.SQL = []string{fmt.Sprintf("alter table %s replica identity default", t)}
	case len(indexes) > 0:
		f.SQL = []string{fmt.Sprintf("alter table %s replica identity using index %s", t, catalog.Quote(indexes[0]))}
	case full:
		f.SQL = []string{fmt.Sprintf("alter table %s replica identity full", t)}
		f.Do = "better: give it a primary key; "
	default:
		f.Do = "give it a primary key without generated columns and make that its replica identity; "
	}
	f.Do += otherwise
	if len(f.SQL) > 0 {
		f.Do += "; it takes ACCESS EXCLUSIVE for a moment: set a lock_timeout and retry until it gets it"
	}
	return f
}

func generatedColumns(t *catalog.Table) []string {
	var names []string
	for i := range t.Columns {
		if t.Columns[i].Generated != 0 {
			names = append(names, catalog.Quote(t.Columns[i].Name))
		}
	}
	return names
}

func generatedIdentity(t *catalog.Table) bool {
	for i := range t.Columns {
		if t.Columns[i].Generated != 0 && (t.ReplicaIdentity == 'f' || slices.Contains(t.Identity, t.Columns[i].Name)) {
			return true
		}
	}
	return false
}

// usableIndexes lists, for tables without an identity or with FULL, the indexes that may become one
// (RelationGetIndexList in relcache.c): the primary key first, then by the number of columns.
func (s *server) usableIndexes(ctx context.Context, tables []catalog.Table, oids []uint32) (map[uint32][]string, error) {
	for i := range tables {
		if tables[i].ReplicaIdentity == 'f' {
			oids = append(oids, tables[i].OID)
		}
	}
	if len(oids) == 0 {
		return nil, nil
	}
	keys, generated := "i.indnatts", "false"
	if s.Major >= 11 {
		keys = "i.indnkeyatts"
	}
	if s.Major >= 12 {
		generated = "a.attgenerated <> ''"
	}
	found := map[uint32][]string{}
	rows, err := s.tx.Query(ctx, `
select i.indrelid, case when i.indisprimary then '' else c.relname::text end
  from pg_index i join pg_class c on c.oid = i.indexrelid
 where i.indrelid = any($1::oid[]) and i.indisunique and i.indimmediate and i.indisvalid and i.indisready and i.indislive
   and i.indpred is null and i.indexprs is null
   and not exists (select from unnest(i.indkey) with ordinality k(attnum, n)
                     left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                    where k.n <= `+keys+` and (a.attnum is null or a.attnum <= 0 or not a.attnotnull or `+generated+`))
 order by i.indrelid, i.indisprimary desc, `+keys+`, c.relname`, oids)
	if err != nil {
		return nil, fmt.Errorf("list unique indexes of the %s: %w", s.side, err)
	}
	defer rows.Close()
	for rows.Next() {
		var oid uint32
		var name string
		if err := rows.Scan(&oid, &name); err != nil {
			return nil, fmt.Errorf("list unique indexes of the %s: %w", s.side, err)
		}
		found[oid] = append(found[oid], name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list unique indexes of the %s: %w", s.side, err)
	}
	return found, nil
}

// columnsWithoutEquality lists, for tables with FULL, the columns whose types have no default
// operator class of btree or hash, such as json, xml and point.
func (s *server) columnsWithoutEquality(ctx context.Context, tables []catalog.Table) (map[uint32][]string, error) {
	var oids []uint32
	for i := range tables {
		if tables[i].ReplicaIdentity == 'f' && tables[i].Kind == 'r' {
			oids = append(oids, tables[i].OID)
		}
	}
	if len(oids) == 0 {
		return nil, nil
	}
	// A domain is as comparable as its base, an array as its elements.
	rows, err := s.tx.Query(ctx, `
with recursive used(relid, name, oid) as (
     select a.attrelid, a.attname::text, a.atttypid from pg_attribute a
      where a.attrelid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped
     union
     select u.relid, u.name, case when t.typtype = 'd' then t.typbasetype else t.typelem end
       from used u join pg_type t on t.oid = u.oid where t.typtype = 'd' or (t.typcategory = 'A' and t.typelem <> 0))
select u.relid, quote_ident(u.name)
  from used u join pg_type t on t.oid = u.oid
 where t.typtype = 'b' and not (t.typcategory = 'A' and t.typelem <> 0)
   and not exists (select from pg_opclass o join pg_am am on am.oid = o.opcmethod
                    where am.amname in ('btree', 'hash') and o.opcdefault
                      and (o.opcintype = t.oid or exists (select from pg_cast k
                            where k.castsource = t.oid and k.casttarget = o.opcintype and k.castmethod = 'b' and k.castcontext = 'i')))
 order by 1, 2`, oids)
	if err != nil {
		return nil, fmt.Errorf("list types of the %s: %w", s.side, err)
	}
	defer rows.Close()
	found := map[uint32][]string{}
	for rows.Next() {
		var oid uint32
		var name string
		if err := rows.Scan(&oid, &name); err != nil {
			return nil, fmt.Errorf("list types of the %s: %w", s.side, err)
		}
		found[oid] = append(found[oid], name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list types of the %s: %w", s.side, err)
	}
	return found, nil
}

// insertOnlyTables checks --insert-only against the server's counters.
func (r *run) insertOnlyTables(ctx context.Context) error {
	var oids []uint32
	for i := range r.tables {
		if t := &r.tables[i]; t.Kind == 'r' && r.insertOnly[t.OID] {
			oids = append(oids, t.OID)
		}
	}
	if len(oids) == 0 {
		return nil
	}
	var findings []Finding
	err := r.source.records(ctx, "counters", `
select n.nspname::text, c.relname::text, pg_stat_get_tuples_updated(c.oid)::text, pg_stat_get_tuples_deleted(c.oid)::text
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.oid = any($1::oid[]) and pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) > 0
 order by 1, 2`, func(row []string) {
		findings = append(findings, Finding{
			ID: "insert-only-changed", Severity: Warn, On: "source", Object: catalog.Name{Schema: row[0], Name: row[1]}.String(),
			Seen: fmt.Sprintf("declared as only inserted into, but the server has counted %s updated and %s deleted rows", row[2], row[3]),
			Do: "take it out of --insert-only and give it an identity. If that was long ago, reset its counters; " +
				"each further change means that the table is copied again, before the cutover",
			SQL: []string{fmt.Sprintf("select pg_stat_reset_single_table_counters(%s::regclass)", catalog.Literal(catalog.Name{Schema: row[0], Name: row[1]}.String()))},
		})
	}, oids)
	r.addEach(findings)
	return err
}
