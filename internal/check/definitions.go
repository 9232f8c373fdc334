package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
)

// definitions finds what is in pg_dump's schema and would not work on the target, or with an empty
// search_path.
func (r *run) definitions(ctx context.Context) error {
	if r.c.Schema == "none" || r.c.Resuming {
		return nil
	}
	for _, subject := range []func(context.Context) error{r.needsExcluded, r.timeDependent, r.domainsNotValid, r.searchPaths} {
		if err := subject(ctx); err != nil {
			return err
		}
	}
	r.forcedRowSecurity()
	blocked := slices.ContainsFunc(r.findings, func(f Finding) bool { return f.Severity == Block })
	if !r.c.Definitions || blocked {
		return nil
	}
	return r.rehearse(ctx)
}

// excluded returns the tables that the patterns leave out.
func (r *run) excluded() (oids []uint32, names []catalog.Name) {
	in := map[uint32]bool{}
	for i := range r.tables {
		in[r.tables[i].OID] = true
	}
	for i := range r.all {
		if t := &r.all[i]; !in[t.OID] && t.Extension == "" {
			oids, names = append(oids, t.OID), append(names, t.Name)
		}
	}
	return oids, names
}

// needsExcluded finds tables that cannot exist without one that is left out: they would be missing
// from the schema, too.
func (r *run) needsExcluded(ctx context.Context) error {
	oids, _ := r.excluded()
	if len(oids) == 0 {
		return nil
	}
	var findings []Finding
	err := r.source.records(ctx, "what tables need", `
with named as (select c.oid, c.reltype, n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace),
left_out as (select * from named where oid = any($2::oid[]))
select 'sequence', t.nspname::text, t.relname::text, x.nspname::text, x.relname::text, s.nspname::text, s.relname::text
  from pg_attrdef d join named t on t.oid = d.adrelid
  join pg_depend u on u.classid = 'pg_attrdef'::regclass and u.objid = d.oid and u.refclassid = 'pg_class'::regclass
  join named s on s.oid = u.refobjid
  join pg_depend o on o.classid = 'pg_class'::regclass and o.objid = s.oid and o.refclassid = 'pg_class'::regclass and o.deptype in ('a', 'i')
  join left_out x on x.oid = o.refobjid
 where t.oid = any($1::oid[])
union
select 'parent', t.nspname, t.relname, x.nspname, x.relname, '', ''
  from pg_inherits i join named t on t.oid = i.inhrelid join left_out x on x.oid = i.inhparent join pg_class p on p.oid = x.oid
 where t.oid = any($1::oid[]) and p.relkind = 'r'
union
select 'type', t.nspname, t.relname, x.nspname, x.relname, '', ''
  from pg_attribute a join named t on t.oid = a.attrelid join pg_type y on y.oid = a.atttypid
  join left_out x on x.reltype in (y.oid, y.typelem)
 where t.oid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped
order by 2, 3, 4, 5`, func(row []string) {
		excluded := catalog.Name{Schema: row[3], Name: row[4]}.String()
		f := Finding{ID: "needs-excluded", Severity: Block, On: "source", Object: catalog.Name{Schema: row[1], Name: row[2]}.String()}
		switch row[0] {
		case "sequence":
			sequence := catalog.Name{Schema: row[5], Name: row[6]}.String()
			f.Seen = "it draws from the sequence " + sequence + " of " + excluded + ", which is left out"
			f.Do = "let the sequence be nobody's, so that it moves with who draws from it; or move " + excluded + " too"
			f.SQL = []string{"alter sequence " + sequence + " owned by none"}
		case "parent":
			f.Seen = "it inherits from " + excluded + ", which is left out"
			f.Do = "move " + excluded + " too, or leave out this one"
		case "type":
			f.Seen = "it has a column of the row type of " + excluded + ", which is left out"
			f.Do = "move " + excluded + " too, or leave out this one"
		}
		findings = append(findings, f)
	}, r.oids(), oids)
	r.addEach(findings)
	return err
}

// timeDependent finds checks that rows have passed before and may not pass now: they depend on the
// time, or on a function that may.
func (r *run) timeDependent(ctx context.Context) error {
	var findings []Finding
	err := r.source.records(ctx, "checks", `
select n.nspname::text, c.relname::text, k.conname::text,
       (select coalesce(string_agg(p.oid::regproc::text, ', '), 'the time') from pg_proc p
         where p.oid::text in (select m[1] from regexp_matches(k.conbin::text, ':(?:funcid|opfuncid) (\d+)', 'g') m)
           and (p.provolatile <> 'i' or p.oid >= 16384))
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
 where k.contype = 'c' and k.convalidated and k.conislocal and c.oid = any($1::oid[])
   and (k.conbin::text like '%SQLVALUEFUNCTION%'
        or exists(select from pg_proc p where p.oid::text in (select m[1] from regexp_matches(k.conbin::text, ':(?:funcid|opfuncid) (\d+)', 'g') m)
                   and (p.provolatile <> 'i' or p.oid >= 16384)))
 order by 1, 2, 3`, func(row []string) {
		name, constraint := catalog.Name{Schema: row[0], Name: row[1]}.String(), catalog.Quote(row[2])
		findings = append(findings, Finding{
			ID: "check-may-fail", Severity: Warn, On: "source", Object: name,
			Seen: fmt.Sprintf("the check %s depends on %s: rows that passed it when they were written may not pass it while they are copied", constraint, row[3]),
			Do: "nothing, if all rows pass it now; otherwise the copy will stop at it. Then drop it on the target, and make it again before the cutover, " +
				"NOT VALID where rows break it, which does for the cutover",
		})
	}, r.oids())
	r.addEach(findings)
	return err
}

// domainsNotValid finds checks of domains that existing rows may violate: the source accepts an
// UPDATE of such a row's other columns, and the target, which gets the whole row, rejects it.
func (r *run) domainsNotValid(ctx context.Context) error {
	var findings []Finding
	err := r.source.records(ctx, "domains", `
select n.nspname::text, t.typname::text, k.conname::text from pg_constraint k join pg_type t on t.oid = k.contypid join pg_namespace n on n.oid = t.typnamespace
 where not k.convalidated and exists(select from pg_attribute a where a.atttypid = t.oid and a.attrelid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped)
 order by 1, 2, 3`, func(row []string) {
		name := catalog.Name{Schema: row[0], Name: row[1]}.String()
		findings = append(findings, Finding{
			ID: "constraint-not-valid", Severity: Warn, On: "source", Object: name,
			Seen: fmt.Sprintf("constraint %s of the domain is NOT VALID: rows may break it, and the target refuses to copy or to change them", catalog.Quote(row[2])),
			Do:   "validate it, or repair the rows",
			SQL:  []string{fmt.Sprintf("alter domain %s validate constraint %s", name, catalog.Quote(row[2]))},
		})
	}, r.oids())
	r.addEach(findings)
	return err
}

// forcedRowSecurity: the target's tables will belong to its role or to one that it is a member of,
// which row security does not restrict unless it is forced.
func (r *run) forcedRowSecurity() {
	t := r.target
	if t.Superuser || t.roleBypassRLS {
		return
	}
	var findings []Finding
	for i := range r.tables {
		if r.tables[i].ForceRowSecurity && r.tables[i].RowSecurity {
			findings = append(findings, Finding{
				ID: "row-security-forced", Severity: Block, On: "target", Object: r.tables[i].String(),
				Seen: "row security is forced even for its owner: changes could not be applied on the target, since its role lacks BYPASSRLS",
				Do:   "let the role bypass it; on RDS a member of rds_superuser can grant that",
				SQL:  []string{"alter role " + catalog.Quote(t.User) + " bypassrls"},
			})
		}
	}
	r.addEach(findings)
}

// uses lists user functions without a search_path of their own in what the target evaluates with an
// empty one: an index, a generated column, a check, a materialized view. Bodies that were parsed on
// creation (BEGIN ATOMIC), and C functions, resolve no names.
const uses = `
with f as (
  select p.oid, p.oid::regprocedure::text as signature from pg_proc p join pg_language l on l.oid = p.prolang
   where p.oid >= 16384 and l.lanname not in ('c', 'internal') and to_jsonb(p) ->> 'prosqlbody' is null
     and not exists(select from unnest(p.proconfig) c where c like 'search_path=%')
     and not exists(select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')),
d as (select distinct classid, objid, objsubid, refobjid from pg_depend where refclassid = 'pg_proc'::regclass and refobjid in (select oid from f))
select f.signature, 'index', i.indrelid::int8::text, i.indexrelid::regclass::text,
       concat_ws(', ', pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid))
  from d join f on f.oid = d.refobjid join pg_index i on d.classid = 'pg_class'::regclass and i.indexrelid = d.objid where i.indrelid = any($1::oid[])
union all
select f.signature, 'generated column', a.attrelid::int8::text, a.attname::text, pg_get_expr(e.adbin, e.adrelid)
  from d join f on f.oid = d.refobjid -- up to 14 it is the column that depends on the function, then its expression
  join pg_attrdef e on d.classid = 'pg_attrdef'::regclass and e.oid = d.objid or d.classid = 'pg_class'::regclass and e.adrelid = d.objid and e.adnum = d.objsubid
  join pg_attribute a on a.attrelid = e.adrelid and a.attnum = e.adnum and coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '' where a.attrelid = any($1::oid[])
union all
select f.signature, 'check', k.conrelid::int8::text, k.conname::text, pg_get_expr(k.conbin, k.conrelid)
  from d join f on f.oid = d.refobjid join pg_constraint k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid and k.contype = 'c' where k.conrelid = any($1::oid[])
union all
select f.signature, 'materialized view', '0', c.oid::regclass::text, ''
  from d join f on f.oid = d.refobjid join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
  join pg_class c on c.oid = w.ev_class and c.relkind = 'm'
order by 1, 2, 4`

// searchPaths warns of functions that rely on a search_path. A role that is not a superuser tries
// them on one row; as a superuser nothing that someone else has written is run.
func (r *run) searchPaths(ctx context.Context) error {
	s := r.source
	type use struct{ function, kind, table, object, expression string }
	var found []use
	if err := s.records(ctx, "functions", uses, func(row []string) {
		found = append(found, use{row[0], row[1], row[2], row[3], row[4]})
	}, r.oids()); err != nil {
		return err
	}
	names := map[string]string{}
	for i := range r.tables {
		names[fmt.Sprint(r.tables[i].OID)] = r.tables[i].String()
	}
	var findings []Finding
	for _, u := range found {
		f := Finding{
			ID: "search-path", Severity: Warn, On: "source", Object: u.function,
			Seen: fmt.Sprintf("the %s %s uses it, and on the target it runs with an empty search_path, as under pg_restore, where it may not find the objects that it names", u.kind, u.object),
			Do:   "give it a search_path of its own, such as this, or qualify the names in its body",
			SQL:  []string{fmt.Sprintf("alter routine %s set search_path = public, pg_temp", u.function)},
		}
		if s.Major < 11 {
			f.SQL[0] = strings.Replace(f.SQL[0], "alter routine", "alter function", 1)
		}
		if table := names[u.table]; table != "" && u.expression != "" && !s.Superuser {
			fails := false
			err := s.try(ctx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `set local statement_timeout = '5s'; set local search_path = ''; select `+u.expression+` from only `+table+` limit 1`, pgx.QueryExecModeSimpleProtocol)
				return err
			}, func(err error) {
				fails = true
				f.Seen = fmt.Sprintf("the %s %s uses it, and with an empty search_path, as under pg_restore, it fails: %s", u.kind, u.object, reason(err))
			})
			if err != nil {
				return err
			}
			if !fails {
				continue
			}
		}
		findings = append(findings, f)
	}
	r.addEach(findings)
	return nil
}

// rehearse creates the whole schema on the target, in a transaction that is rolled back.
func (r *run) rehearse(ctx context.Context) error {
	tools, err := schema.Find(ctx, r.source.Major, r.target.Major)
	if err != nil {
		return nil // r.schema reports it
	}
	_, excluded := r.excluded()
	dump, err := tools.Dump(ctx, r.c.SourceDSN, schema.Options{Exclude: excluded})
	if err != nil {
		return err
	}
	conn, err := session.Open(ctx, session.Config{DSN: r.c.TargetDSN, Application: "check"})
	if err != nil {
		return err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // that is the point
	report, err := dump.Rehearse(ctx, tx)
	var object *schema.ObjectError
	switch {
	case errors.As(err, &object):
		r.add(Finding{
			ID: "definition-refused", Severity: Block, On: "target", Object: object.Object,
			Seen: "a table needs it, and the target rejects it: " + reason(object.Err), Do: object.Hint(),
		})
		return nil
	case err != nil:
		return err
	}
	var findings []Finding
	for _, o := range report.Refused {
		findings = append(findings, Finding{
			ID: "definition-refused", Severity: Warn, On: "target", Object: o.Object, Seen: "the target rejects it: " + o.Why,
			Do: "the migration continues without it, and the cutover asks: create it on the target by hand in a form that it accepts, or cut over with --without",
		})
	}
	r.addEach(findings)
	return nil
}
