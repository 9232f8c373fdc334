package schema

import (
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

// Every query of this file yields kind, object, value, tables, roles; see fact.

var keyQueries = []func(server) string{relations, indexes, constraints}

var allQueries = []func(server) string{
	schemas, extensions, types, functions, others, relations, relationParts, columns, sequences,
	indexes, indexParts, constraints, constraintDefinitions, triggers, policies, rules, statistics,
	eventTriggers, owners, privileges, defaultPrivileges, comments, securityLabels,
}

// since gives SQL from a version on, and its stand-in before.
func (s server) since(major int, sql, before string) string {
	if s.major >= major {
		return sql
	}
	return before
}

// same reports whether both sides write expressions in the same way.
func (s server) same() bool { return s.major == s.other }

// member is the condition that an object belongs to an extension.
func member(class, oid string) string {
	return fmt.Sprintf("exists(select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.%s'::regclass and d.objid = %s and d.deptype = 'e')", class, oid)
}

const none = "'{}'::text[]"

// relationsCTE is r: the application's relations with their names as SQL, id for
// people and sure as pgx quotes it. Columns are listed, as oid is not in * before
// version 12.
var relationsCTE = `r as (
  select c.oid, c.relkind, c.relpersistence, c.relispartition, c.relpartbound, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
         c.reloptions, c.reltoastrelid, c.relispopulated, c.relam, quote_ident(n.nspname) || '.' || quote_ident(c.relname) as id, ` + quoted("n.nspname", "c.relname") + ` as sure,
         case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view' when 'm' then 'materialized view'
              when 'f' then 'foreign table' when 'S' then 'sequence' when 'c' then 'type' end as kind
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c') and c.relpersistence <> 't' and ` + catalog.NotOurs + `
     and not ` + member("pg_class", "c.oid") + `)`

// quoted is a name with quotes in any case: pgx's Sanitize.
func quoted(namespace, name string) string {
	return fmt.Sprintf(`'"' || replace(%s, '"', '""') || '"."' || replace(%s, '"', '""') || '"'`, namespace, name)
}

func schemas(server) string {
	return `select 'schema', quote_ident(n.nspname), '', ` + none + `, ` + none + `
  from pg_catalog.pg_namespace n where ` + catalog.NotOurs + ` and not ` + member("pg_namespace", "n.oid")
}

func extensions(server) string {
	return `select 'extension', quote_ident(extname), '', ` + none + `, ` + none + ` from pg_catalog.pg_extension`
}

func types(server) string {
	app := catalog.NotOurs + ` and not ` + member("pg_type", "t.oid")
	return `
select 'enum', format_type(t.oid, null), (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder)
       from pg_catalog.pg_enum e where e.enumtypid = t.oid), ` + none + `, ` + none + `
  from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace where t.typtype = 'e' and ` + app + `
union all
select 'domain', format_type(t.oid, null), format_type(t.typbasetype, t.typtypmod) || case when t.typnotnull then ' not null' else '' end
       || coalesce((select ' collate ' || c.collname from pg_catalog.pg_collation c where c.oid = t.typcollation
                       and t.typcollation <> (select b.typcollation from pg_catalog.pg_type b where b.oid = t.typbasetype)), ''), ` + none + `, ` + none + `
  from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace where t.typtype = 'd' and ` + app + `
union all
select 'domain default definition', format_type(t.oid, null), t.typdefault, ` + none + `, ` + none + `
  from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
 where t.typtype = 'd' and t.typdefault is not null and ` + app + `
union all
select 'range', format_type(t.oid, null), format_type(g.rngsubtype, null) || ' ' || g.rngsubdiff::text, ` + none + `, ` + none + `
  from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
  join pg_catalog.pg_range g on g.rngtypid = t.oid where ` + app + `
union all
select 'type', format_type(t.oid, null), '', ` + none + `, ` + none + `
  from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
 where t.typtype in ('b', 'm') and not exists(select from pg_catalog.pg_type e where e.typarray = t.oid) and ` + app
}

func functions(s server) string {
	kind := s.since(11, "p.prokind::text", "case when p.proisagg then 'a' when p.proiswindow then 'w' else 'f' end")
	body := "md5(p.prosrc)"
	if s.major >= 14 {
		body = "case when p.prosqlbody is null then md5(p.prosrc) else 'SQL' end"
		if s.same() {
			body = "coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), md5(p.prosrc))"
		}
	}
	return `
with p as (
  select p.oid, p.oid::regprocedure::text as id, concat_ws(', ', ` + kind + `, (select l.lanname from pg_catalog.pg_language l where l.oid = p.prolang),
       pg_catalog.pg_get_function_result(p.oid), case when p.prosecdef then 'security definer' end, case when p.proleakproof then 'leakproof' end,
       case when p.proisstrict then 'strict' end, p.provolatile::text, p.proparallel::text, p.procost::text, p.prorows::text,
       p.proconfig::text, ` + body + `) as value
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace where ` + catalog.NotOurs + ` and not ` + member("pg_proc", "p.oid") + `
     -- The constructors of ranges come with the type.
     and not exists(select from pg_catalog.pg_depend i where i.classid = 'pg_catalog.pg_proc'::regclass and i.objid = p.oid and i.deptype = 'i'))
select 'function', p.id, p.value, ` + none + `, ` + none + ` from p
union all
-- From version 14 on the arguments of procedures are written with IN.
select 'function arguments definition', p.id, regexp_replace(pg_catalog.pg_get_function_arguments(p.oid), '(^|, )IN ', '\1', 'g'), ` + none + `, ` + none + ` from p
union all
select 'aggregate', p.id, concat_ws(', ', a.aggkind::text, a.aggtransfn::text, nullif(a.aggfinalfn::text, '-'), nullif(a.aggcombinefn::text, '-'),
       format_type(a.aggtranstype, null), a.agginitval), ` + none + `, ` + none + `
  from p join pg_catalog.pg_aggregate a on a.aggfnoid = p.oid`
}

// others are kinds of objects that are only looked for by name.
func others(server) string {
	var parts []string
	for _, class := range []string{
		"pg_operator", "pg_opclass", "pg_opfamily", "pg_cast", "pg_collation", "pg_conversion", "pg_language", "pg_transform",
		"pg_am", "pg_ts_config", "pg_ts_dict", "pg_ts_parser", "pg_ts_template", "pg_foreign_data_wrapper", "pg_foreign_server",
	} {
		// Below 16384 are the objects of initdb.
		parts = append(parts, `
select i.type, i.identity, '', `+none+`, `+none+`
  from pg_catalog.`+class+` o, lateral pg_catalog.pg_identify_object('pg_catalog.`+class+`'::regclass, o.oid, 0) i
 where o.oid >= 16384 and coalesce(i.schema, '') not in ('walferry', '"pg_catalog"', 'pg_catalog', 'information_schema') and not `+member(class, "o.oid"))
	}
	parts = append(parts, `
select 'user mapping', quote_ident(srvname) || ' for ' || usename, '', `+none+`,
       case when umuser = 0 then '{}' else array[usename::text] end from pg_catalog.pg_user_mappings`)
	return strings.Join(parts, "\nunion all")
}

func relations(server) string {
	return `with ` + relationsCTE + `
select kind, id, relpersistence::text, array[sure], ` + none + ` from r where kind <> 'type'`
}

func relationParts(s server) string {
	sql := `with ` + relationsCTE + `
select 'partition key definition', id, pg_catalog.pg_get_partkeydef(oid), array[sure], ` + none + ` from r where relkind = 'p'
union all
select 'partition bound definition', id, pg_catalog.pg_get_expr(relpartbound, oid), array[r.sure, p.sure], ` + none + `
  from r, lateral (select pr.sure from pg_catalog.pg_inherits h join r pr on pr.oid = h.inhparent where h.inhrelid = r.oid) p
 where relispartition
union all
select 'parents', r.id, string_agg(p.id, ', ' order by h.inhseqno), array[r.sure] || array_agg(p.sure), ` + none + `
  from r join pg_catalog.pg_inherits h on h.inhrelid = r.oid join r p on p.oid = h.inhparent group by r.id, r.sure
union all
select 'row security', id, concat_ws(', ', case when relrowsecurity then 'enabled' end, case when relforcerowsecurity then 'forced' end), array[sure], ` + none + `
  from r where relkind in ('r', 'p') and (relrowsecurity or relforcerowsecurity)
union all
select 'replica identity', id, relreplident::text || coalesce(' ' || (select c.relname from pg_catalog.pg_index i
       join pg_catalog.pg_class c on c.oid = i.indexrelid where i.indrelid = r.oid and i.indisreplident), ''), array[sure], ` + none + `
  from r where relkind in ('r', 'p')
union all
select 'options', id, (select string_agg(o, ', ' order by o) from unnest(reloptions) o), array[sure], ` + none + ` from r where reloptions is not null
union all
select 'TOAST options', id, (select string_agg(o, ', ' order by o) from pg_catalog.pg_class t, unnest(t.reloptions) o where t.oid = r.reltoastrelid), array[sure], ` + none + `
  from r where exists(select from pg_catalog.pg_class t where t.oid = r.reltoastrelid and t.reloptions is not null)
union all
select 'rows of materialized view', id, 'filled', array[sure], ` + none + ` from r where relkind = 'm' and relispopulated`
	if s.major >= 12 {
		sql += `
union all
select 'access method', id, (select amname from pg_catalog.pg_am a where a.oid = r.relam), array[sure], ` + none + `
  from r where relkind in ('r', 'm') and relam <> 2`
	}
	if s.same() {
		sql += `
union all
select 'view definition', id, pg_catalog.pg_get_viewdef(oid), array[sure], ` + none + ` from r where relkind in ('v', 'm')`
	}
	return sql
}

func columns(s server) string {
	generated := s.since(12, "nullif(a.attgenerated::text, '')", "null")
	sql := `with ` + relationsCTE + `,
a as (
  select a.*, r.id || '.' || quote_ident(a.attname) as id, r.sure, r.relkind
    from r join pg_catalog.pg_attribute a on a.attrelid = r.oid where a.attnum > 0 and not a.attisdropped and r.relkind <> 'S')
select 'column', a.id, concat_ws(', ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
       'identity ' || nullif(a.attidentity::text, ''), 'generated ' || ` + generated + `), array[sure], ` + none + ` from a
union all
select 'column default definition', a.id, pg_catalog.pg_get_expr(d.adbin, d.adrelid), array[sure], ` + none + `
  from a join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
union all
select 'column collation', a.id, c.collname::text, array[sure], ` + none + `
  from a join pg_catalog.pg_type t on t.oid = a.atttypid join pg_catalog.pg_collation c on c.oid = a.attcollation where a.attcollation <> t.typcollation
union all
select 'column storage', a.id, a.attstorage::text, array[sure], ` + none + `
  from a join pg_catalog.pg_type t on t.oid = a.atttypid where a.attstorage <> t.typstorage and a.relkind in ('r', 'p', 'm', 'f')
union all
select 'column statistics', a.id, a.attstattarget::text, array[sure], ` + none + ` from a where a.attstattarget >= 0 and a.relkind in ('r', 'p', 'm', 'f')
union all
select 'column options', a.id, concat_ws(' ', nullif(o.list, '{}')::text, a.attfdwoptions::text), array[sure], ` + none + `
  from a cross join lateral (select array(select x from unnest(a.attoptions) x where left(x, 10) <> 'pg_attver=' order by x) as list) o
  where o.list <> '{}' or a.attfdwoptions is not null`
	if s.major >= 14 {
		sql += `
union all
select 'column compression', a.id, a.attcompression::text, array[sure], ` + none + ` from a where a.attcompression <> ''`
	}
	return sql
}

func sequences(server) string {
	return `with ` + relationsCTE + `
select 'sequence settings', r.id, concat_ws(', ', format_type(s.seqtypid, null), 'start ' || s.seqstart, 'increment ' || s.seqincrement,
       'min ' || s.seqmin, 'max ' || s.seqmax, 'cache ' || s.seqcache, case when s.seqcycle then 'cycle' end), array[r.sure], ` + none + `
  from r join pg_catalog.pg_sequence s on s.seqrelid = r.oid
union all
select 'sequence of column', r.id, t.id || '.' || quote_ident(a.attname) || case d.deptype when 'i' then ' identity' else '' end, array[r.sure, t.sure], ` + none + `
  from r join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = r.oid
       and d.refclassid = 'pg_catalog.pg_class'::regclass and d.deptype in ('a', 'i')
  join r t on t.oid = d.refobjid join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
 where r.relkind = 'S'`
}

// indexesCTE is x: indexes that pg_dump considers to be there.
var indexesCTE = relationsCTE + `,
x as (
  select i.*, c.relkind, c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname) as id, r.sure
    from r join pg_catalog.pg_index i on i.indrelid = r.oid join pg_catalog.pg_class c on c.oid = i.indexrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where i.indisready and (i.indisvalid or c.relkind = 'I'))`

func indexes(server) string {
	return `with ` + indexesCTE + `
select 'index', x.id, concat_ws(', ', 'on ' || x.sure, case when x.indisvalid then 'valid' end, case when x.indisprimary then 'primary' end, case when x.indisunique then 'unique' end,
       case when x.indisexclusion then 'exclusion' end, case when not x.indimmediate then 'deferrable' end), array[x.sure], ` + none + ` from x`
}

func indexParts(s server) string {
	sql := `with ` + indexesCTE + `
select 'index definition', x.id, pg_catalog.pg_get_indexdef(x.indexrelid), array[x.sure], ` + none + ` from x
union all
select 'clustered on', x.id, '', array[x.sure], ` + none + ` from x where x.indisclustered
union all
select 'index column statistics', x.id || '.' || a.attnum, a.attstattarget::text, array[x.sure], ` + none + `
  from x join pg_catalog.pg_attribute a on a.attrelid = x.indexrelid where a.attstattarget >= 0`
	if s.major >= 11 {
		sql += `
union all
select 'index of partition', x.id, p.id, array[x.sure, p.sure], ` + none + `
  from x join pg_catalog.pg_inherits h on h.inhrelid = x.indexrelid join x p on p.indexrelid = h.inhparent`
	}
	return sql
}

// constraintsCTE is k: what was declared, without the copies that foreign keys
// of and to partitioned tables make. NOT NULL is compared with the columns.
func constraintsCTE(s server) string {
	return relationsCTE + `,
k as (
  -- An inherited check comes with its parent's, as NOT VALID as that.
  select o.oid, o.contype, o.convalidated or not o.conislocal as convalidated, o.condeferrable, o.condeferred, o.conislocal, r.id || '.' || quote_ident(o.conname) as id, array[r.sure] || coalesce((select f.sure from r f where f.oid = o.confrelid), '{}'::text) as tables
    from r join pg_catalog.pg_constraint o on o.conrelid = r.oid
   where o.contype in ('c', 'p', 'u', 'x', 'f')` + s.since(11, " and not (o.contype = 'f' and o.conparentid <> 0)", "") + `
  union all
  select o.oid, o.contype, o.convalidated, o.condeferrable, o.condeferred, true, format_type(t.oid, null) || '.' || quote_ident(o.conname), '{}'
    from pg_catalog.pg_constraint o join pg_catalog.pg_type t on t.oid = o.contypid join pg_catalog.pg_namespace n on n.oid = t.typnamespace
   where o.contype = 'c' and ` + catalog.NotOurs + ` and not ` + member("pg_type", "t.oid") + `)`
}

func constraints(s server) string {
	return `with ` + constraintsCTE(s) + `
select 'constraint', k.id, concat_ws(', ', case k.contype when 'c' then 'check' when 'p' then 'primary key' when 'u' then 'unique' when 'x' then 'exclusion' else 'foreign key' end,
       case when not k.convalidated then 'not valid' end, case when k.condeferrable then 'deferrable' end, case when k.condeferred then 'initially deferred' end), k.tables, ` + none + ` from k`
}

func constraintDefinitions(s server) string {
	return `with ` + constraintsCTE(s) + `
select 'constraint definition', k.id, pg_catalog.pg_get_constraintdef(k.oid), k.tables, ` + none + `
  from k where k.conislocal or k.contype <> 'c'`
}

func triggers(s server) string {
	// Copies of a trigger on partitions are marked as internal up to 14.
	ours := `exists(select from pg_catalog.pg_proc f join pg_catalog.pg_namespace fn on fn.oid = f.pronamespace
       where f.oid = t.tgfoid and fn.nspname = 'walferry')`
	sql := `with ` + relationsCTE + `
select 'trigger', r.id || '.' || quote_ident(t.tgname), t.tgenabled::text, array[r.sure], ` + none + `
  from r join pg_catalog.pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal and not ` + ours + s.since(13, " and t.tgparentid = 0", "") + `
union all
select 'trigger definition', r.id || '.' || quote_ident(t.tgname), pg_catalog.pg_get_triggerdef(t.oid), array[r.sure], ` + none + `
  from r join pg_catalog.pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal and not ` + ours + s.since(13, " and t.tgparentid = 0", "")
	if s.major >= 13 {
		sql += `
union all
select 'trigger of partition', r.id || '.' || quote_ident(t.tgname), t.tgenabled::text, array[r.sure], ` + none + `
  from r join pg_catalog.pg_trigger t on t.tgrelid = r.oid join pg_catalog.pg_trigger p on p.oid = t.tgparentid
 where p.tgenabled <> t.tgenabled and t.tgconstraint = 0`
	}
	return sql
}

func policies(server) string {
	return `with ` + relationsCTE + `,
p as (
  select r.id || '.' || quote_ident(p.polname) as id, r.sure, p.polrelid, p.polroles, p.polcmd, p.polpermissive, p.polqual, p.polwithcheck,
         array(select rolname::text from pg_catalog.pg_roles where oid = any(p.polroles) order by 1) as roles
    from r join pg_catalog.pg_policy p on p.polrelid = r.oid)
select 'policy', p.id, concat_ws(' ', p.polcmd::text, p.polpermissive::text, 'to', p.roles::text, 0 = any(p.polroles)), array[p.sure], p.roles from p
union all
select 'policy definition', p.id, concat_ws(' with check ', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
       pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)), array[p.sure], p.roles from p`
}

func rules(s server) string {
	sql := `with ` + relationsCTE + `
select 'rule', r.id || '.' || quote_ident(w.rulename), w.ev_type::text || w.ev_enabled::text || w.is_instead, array[r.sure], ` + none + `
  from r join pg_catalog.pg_rewrite w on w.ev_class = r.oid where w.rulename <> '_RETURN'`
	if s.same() {
		sql += `
union all
select 'rule definition', r.id || '.' || quote_ident(w.rulename), pg_catalog.pg_get_ruledef(w.oid), array[r.sure], ` + none + `
  from r join pg_catalog.pg_rewrite w on w.ev_class = r.oid where w.rulename <> '_RETURN'`
	}
	return sql
}

func statistics(s server) string {
	sql := `with ` + relationsCTE + `
select 'statistics definition', quote_ident(n.nspname) || '.' || quote_ident(s.stxname), pg_catalog.pg_get_statisticsobjdef(s.oid), array[r.sure], ` + none + `
  from r join pg_catalog.pg_statistic_ext s on s.stxrelid = r.oid join pg_catalog.pg_namespace n on n.oid = s.stxnamespace`
	if s.major >= 13 {
		sql += `
union all
select 'statistics target', quote_ident(n.nspname) || '.' || quote_ident(s.stxname), s.stxstattarget::text, array[r.sure], ` + none + `
  from r join pg_catalog.pg_statistic_ext s on s.stxrelid = r.oid join pg_catalog.pg_namespace n on n.oid = s.stxnamespace where s.stxstattarget >= 0`
	}
	return sql
}

func eventTriggers(server) string {
	return `
select 'event trigger', quote_ident(e.evtname), concat_ws(', ', e.evtevent::text, e.evtenabled::text, e.evttags::text, e.evtfoid::regproc::text), ` + none + `, ` + none + `
  from pg_catalog.pg_event_trigger e join pg_catalog.pg_roles o on o.oid = e.evtowner
 where o.rolname not in ('` + strings.Join(managed(), "', '") + `') and not ` + member("pg_event_trigger", "e.oid")
}
