package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Outline lists what Tables does, and foreign tables (kind f), with columns and parents, and the
// bounds and keys of partitions, but without what takes long or opens the tables' files: sizes,
// keys, privileges. It is what identifies a table.
func Outline(ctx context.Context, q Querier) (tables, foreign []Table, err error) {
	major, err := Major(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	rows, err := q.Query(ctx, `
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text, c.relispartition,
       coalesce(case when c.relispartition then pg_catalog.pg_get_expr(c.relpartbound, c.oid) end, ''),
       coalesce(case when c.relkind = 'p' then pg_catalog.pg_get_partkeydef(c.oid) end, '')
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't' and `+NotOurs+`
 order by c.relkind = 'f', n.nspname, c.relname`)
	if err != nil {
		return nil, nil, fmt.Errorf("list tables: %w", err)
	}
	tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Table, err error) {
		var kind, persistence, identity string
		err = row.Scan(&t.OID, &t.Schema, &t.Name.Name, &kind, &persistence, &identity, &t.IsPartition, &t.Bound, &t.Key)
		t.Kind, t.Persistence, t.ReplicaIdentity = first(kind), first(persistence), first(identity)
		return t, err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list tables: %w", err)
	}
	byOID := make(map[uint32]*Table, len(tables))
	plain := len(tables)
	for i := range tables {
		byOID[tables[i].OID] = &tables[i]
		if tables[i].Kind == 'f' {
			plain = min(plain, i)
		}
	}
	for _, add := range []func(context.Context, Querier, int, map[uint32]*Table) error{addColumns, addParents, addExtensions} {
		if err := add(ctx, q, major, byOID); err != nil {
			return nil, nil, err
		}
	}
	return tables[:plain], tables[plain:], nil
}

// Mark returns a string that changes once anything in Outline, or a publication, has changed. It is
// a single query that takes no locks and sends one row, for when there is no time to read
// everything. major is the server's version.
func Mark(ctx context.Context, q Querier, major int) (mark string, err error) {
	since := func(version int, sql string) string {
		if major >= version {
			return sql
		}
		return "''"
	}
	sum := func(values string) string {
		return "count(*) || ':' || coalesce(sum(hashtext(concat_ws(' ', " + values + "))::int8), 0)"
	}
	err = q.QueryRow(ctx, `
with c as (
  select oid, relnamespace, relname, relkind, relispartition, relpartbound from pg_catalog.pg_class where relkind in ('r', 'p', 'f') and relpersistence <> 't' and oid >= 16384)
select concat_ws(', ',
  (select `+sum("oid, relnamespace, relname, relkind, relispartition, relpartbound::text")+` from c),
  (select `+sum("a.attrelid, a.attnum, a.attname, a.attisdropped, a.atttypid, a.atttypmod")+` from pg_catalog.pg_attribute a join c on c.oid = a.attrelid where a.attnum > 0),
  (select `+sum("i.inhrelid, i.inhparent, "+since(14, "i.inhdetachpending"))+` from pg_catalog.pg_inherits i join c on c.oid = i.inhrelid),
  (select `+sum("n.oid, n.nspname")+` from pg_catalog.pg_namespace n where `+NotOurs+`),
  (select `+sum("oid, pubname, xmin")+` from pg_catalog.pg_publication),
  (select `+sum("oid, prrelid, "+since(15, "prattrs::text")+", "+since(15, "prqual::text"))+` from pg_catalog.pg_publication_rel),
  `+since(15, "(select "+sum("oid, pnpubid, pnnspid")+" from pg_catalog.pg_publication_namespace)")+`)`).Scan(&mark)
	if err != nil {
		return "", fmt.Errorf("sum up the catalogue: %w", err)
	}
	return mark, nil
}
