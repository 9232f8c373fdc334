package schema

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

func managed() []string { return slices.Sorted(maps.Keys(managedOwners)) }

// ownable is a kind of object with an owner and privileges.
type ownable struct {
	class     string // its catalogue
	name      string // its name and kind as SQL, from o and n
	owner     string
	acl       string // column of privileges; empty: it has none
	letter    string // for acldefault
	namespace string // column; empty: it is in no schema
	where     string
}

func ownables(s server) []ownable {
	relation := func(kind, letter, relkinds string) ownable {
		return ownable{
			class: "pg_class", name: "'" + kind + " ' || quote_ident(n.nspname) || '.' || quote_ident(o.relname)", owner: "o.relowner",
			acl: "o.relacl", letter: letter, namespace: "o.relnamespace", where: "o.relkind in (" + relkinds + ") and o.relpersistence <> 't'",
		}
	}
	return []ownable{
		{
			class: "pg_namespace", name: "'schema ' || quote_ident(o.nspname)", owner: "o.nspowner", acl: "o.nspacl", letter: "n",
			where: strings.ReplaceAll(catalog.NotOurs, "n.nspname", "o.nspname"),
		},
		relation("table", "r", "'r', 'p', 'v', 'm', 'f'"),
		relation("sequence", "s", "'S'"),
		{
			class: "pg_proc", name: "'function ' || o.oid::regprocedure::text", owner: "o.proowner", acl: "o.proacl", letter: "f", namespace: "o.pronamespace",
			// The constructors of ranges belong to whoever created the type, for ever.
			where: "not exists(select from pg_catalog.pg_depend i where i.classid = 'pg_catalog.pg_proc'::regclass and i.objid = o.oid and i.deptype = 'i')",
		},
		{
			class: "pg_type", name: "'type ' || format_type(o.oid, null)", owner: "o.typowner", acl: "o.typacl", letter: "T", namespace: "o.typnamespace",
			where: "(o.typrelid = 0 or exists(select from pg_catalog.pg_class c where c.oid = o.typrelid and c.relkind = 'c')) and o.typcategory <> 'A'" +
				s.since(14, " and o.typtype <> 'm'", ""),
		},
		{class: "pg_language", name: "'language ' || quote_ident(o.lanname)", owner: "o.lanowner", acl: "o.lanacl", letter: "l", where: "o.lanpltrusted and o.oid >= 16384"},
		{class: "pg_foreign_data_wrapper", name: "'foreign data wrapper ' || quote_ident(o.fdwname)", owner: "o.fdwowner", acl: "o.fdwacl", letter: "F", where: "true"},
		{class: "pg_foreign_server", name: "'foreign server ' || quote_ident(o.srvname)", owner: "o.srvowner", acl: "o.srvacl", letter: "S", where: "true"},
		{class: "pg_operator", name: "'operator ' || o.oid::regoperator::text", owner: "o.oprowner", namespace: "o.oprnamespace", where: "true"},
		{class: "pg_collation", name: "'collation ' || quote_ident(n.nspname) || '.' || quote_ident(o.collname)", owner: "o.collowner", namespace: "o.collnamespace", where: "true"},
		{class: "pg_ts_config", name: "'text search configuration ' || quote_ident(n.nspname) || '.' || quote_ident(o.cfgname)", owner: "o.cfgowner", namespace: "o.cfgnamespace", where: "true"},
		{class: "pg_ts_dict", name: "'text search dictionary ' || quote_ident(n.nspname) || '.' || quote_ident(o.dictname)", owner: "o.dictowner", namespace: "o.dictnamespace", where: "true"},
		{class: "pg_statistic_ext", name: "'statistics ' || quote_ident(n.nspname) || '.' || quote_ident(o.stxname)", owner: "o.stxowner", namespace: "o.stxnamespace", where: "true"},
		{class: "pg_event_trigger", name: "'event trigger ' || quote_ident(o.evtname)", owner: "o.evtowner", where: "true"},
	}
}

// from is the FROM and WHERE of a kind's query.
func (o ownable) from() string {
	sql := "pg_catalog." + o.class + " o"
	where := o.where + " and not " + member(o.class, "o.oid")
	if o.namespace != "" {
		sql += " join pg_catalog.pg_namespace n on n.oid = " + o.namespace
		where += " and " + catalog.NotOurs
	}
	return sql + "\n  join pg_catalog.pg_roles w on w.oid = " + o.owner + "\n where " + where
}

// tables is the excuse for what belongs to a relation.
func (o ownable) tables() string {
	switch o.class {
	case "pg_class":
		return "array[" + quoted("n.nspname", "o.relname") + "]"
	}
	return none
}

func owners(s server) string {
	var parts []string
	for _, o := range ownables(s) {
		parts = append(parts, "\nselect 'owner', "+o.name+", w.rolname::text, "+o.tables()+", array[w.rolname::text]\n  from "+o.from())
	}
	return strings.Join(parts, "\nunion all")
}

// privileges are those of everybody but the owner, who has them all, one fact
// for a grantee. PUBLIC is always there: what it has more on the target counts.
// MAINTAIN came with version 17 and is part of GRANT ALL there.
func privileges(s server) string {
	where := ""
	if min(s.major, s.other) < 17 {
		where = " and x.privilege_type <> 'MAINTAIN'"
	}
	// q is an object with its privileges; at least one row each, for PUBLIC.
	each := func(q string, public bool) string {
		everybody := ""
		if public {
			everybody = " union select 0"
		}
		return `
select 'privileges', q.object || ' of ' || coalesce(r.rolname, 'public'),
       (select coalesce(string_agg(x.privilege_type || case when x.is_grantable then '*' else '' end, ', ' order by x.privilege_type), '')
          from pg_catalog.aclexplode(q.acl) x where x.grantee = g.oid` + where + `),
       q.tables, case when g.oid = 0 then '{}' else array[r.rolname::text] end
  from (` + q + `) q
  cross join lateral (select x.grantee as oid from pg_catalog.aclexplode(q.acl) x` + everybody + `) g
  left join pg_catalog.pg_roles r on r.oid = g.oid
 where g.oid <> q.owner and (g.oid = 0 or r.oid is not null)`
	}
	var parts []string
	for _, o := range ownables(s) {
		if o.acl != "" {
			acl := fmt.Sprintf("coalesce(%s, pg_catalog.acldefault('%s', %s))", o.acl, o.letter, o.owner)
			parts = append(parts, each("select "+o.name+" as object, "+acl+" as acl, "+o.owner+" as owner, "+o.tables()+" as tables from "+o.from(), true))
		}
	}
	parts = append(parts, each(`
select 'column ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(a.attname) as object, a.attacl as acl, c.relowner as owner,
       array[`+quoted("n.nspname", "c.relname")+`] as tables
  from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where a.attacl is not null and not a.attisdropped and `+catalog.NotOurs+` and not `+member("pg_class", "c.oid"), false))
	return strings.Join(parts, "\nunion all")
}

func defaultPrivileges(s server) string {
	where := ""
	if min(s.major, s.other) < 17 {
		where = " where x.privilege_type <> 'MAINTAIN'"
	}
	return `
select 'default privileges', concat_ws(' ', 'of', o.rolname, 'in schema ' || quote_ident(n.nspname), 'for', d.defaclobjtype, 'to', coalesce(g.rolname, 'public')),
       string_agg(x.privilege_type || case when x.is_grantable then '*' else '' end, ', ' order by x.privilege_type),
       ` + none + `, array[o.rolname::text] || case when g.rolname is null then '{}' else array[g.rolname::text] end
  from pg_catalog.pg_default_acl d join pg_catalog.pg_roles o on o.oid = d.defaclrole
  left join pg_catalog.pg_namespace n on n.oid = d.defaclnamespace
  cross join lateral pg_catalog.aclexplode(d.defaclacl) x left join pg_catalog.pg_roles g on g.oid = x.grantee` + where + `
 group by o.rolname, n.nspname, d.defaclobjtype, g.rolname`
}

func comments(server) string {
	return `
select 'comment', i.type || ' ' || i.identity, c.description, ` + none + `, ` + none + `
  from pg_catalog.pg_description c, lateral pg_catalog.pg_identify_object(c.classoid, c.objoid, c.objsubid) i
 where (c.objoid >= 16384 or c.classoid = 'pg_catalog.pg_namespace'::regclass)
   and c.classoid not in ('pg_catalog.pg_extension'::regclass, 'pg_catalog.pg_publication'::regclass, 'pg_catalog.pg_subscription'::regclass)
   and coalesce(i.schema, '') <> 'walferry' and i.identity !~ '^(pg_|information_schema|walferry)'
   and not exists(select from pg_catalog.pg_depend d where d.classid = c.classoid and d.objid = c.objoid and d.deptype = 'e')`
}

func securityLabels(server) string {
	return `
select 'security label', objtype || ' ' || objname || ' for ' || provider, label, ` + none + `, ` + none + `
  from pg_catalog.pg_seclabels where objtype not in ('role', 'database', 'tablespace', 'publication', 'subscription')`
}
