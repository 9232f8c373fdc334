package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Stranger is something in schema walferry through which others could make walferry run code of
// theirs, with walferry's rights.
type Stranger struct {
	Object string // as in table walferry.progress
	Why    string
	Fix    string // a statement that removes it
	Kind   Hand
}

// Hand is how others have a hand in an object.
type Hand string

const (
	Owner Hand = "owner" // it belongs to another role
	Grant Hand = "grant" // a privilege: Fix revokes it, and nothing else is lost by that
	Shape Hand = "shape" // it is, or has, what nothing of walferry's is or has
)

// StrangersError reports that schema walferry is not walferry's alone. Nothing in it was used.
type StrangersError struct {
	Database  string
	Strangers []Stranger
}

func (e *StrangersError) Error() string {
	var what []string
	for _, s := range e.Strangers[:min(len(e.Strangers), 3)] {
		what = append(what, s.Object+" "+s.Why)
	}
	if more := len(e.Strangers) - len(what); more > 0 {
		what = append(what, fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("in database %s somebody else has a hand in schema walferry: %s", Quote(e.Database), strings.Join(what, "; "))
}

// Hint returns what the operator can do.
func (e *StrangersError) Hint() string {
	return "connect as the role that began the migration; if none uses it, rename the schema or drop it; `walferry check` has the SQL"
}

// trusted is the condition that a role may do whatever the connected one may: it is the same, a
// member of it, or a superuser. That the connected role is a member of the other one, as walferry's
// is of those that own tables, is no reason to trust that.
func trusted(major int, role string) string {
	if major >= 16 {
		return fmt.Sprintf("(%[1]s <> 0 and (pg_catalog.pg_has_role(%[1]s, current_user, 'USAGE') or pg_catalog.pg_has_role(%[1]s, current_user, 'SET')))", role)
	}
	return fmt.Sprintf("(%[1]s <> 0 and pg_catalog.pg_has_role(%[1]s, current_user, 'MEMBER'))", role)
}

// Strangers lists what in schema walferry is not walferry's own, on either side: what belongs to a
// role that is not trusted, what such a role may write to, and what no table of walferry has:
// triggers, rules, policies, parents and children, foreign keys, and anything in a column, default,
// constraint or index that is not the system's. None: there is no such schema, or no one else has a
// hand in it.
//
// An owner can do at any time what it may do now; so an owner that is not trusted is enough,
// without comparing the tables with what they should look like.
func Strangers(ctx context.Context, q Querier) ([]Stranger, error) {
	major, err := Major(ctx, q)
	if err != nil {
		return nil, err
	}
	routine := "'function'"
	if major >= 11 {
		routine = "case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end"
	}
	sql := strings.NewReplacer(
		"{routine}", routine,
		"{owner of n}", "not "+trusted(major, "n.nspowner"), "{owner of c}", "not "+trusted(major, "c.relowner"),
		"{owner of p}", "not "+trusted(major, "p.proowner"), "{owner of t}", "not "+trusted(major, "t.typowner"),
		"{owner of o}", "not "+trusted(major, "o.oprowner"), "{grantee}", "not "+trusted(major, "a.grantee"),
	).Replace(strangersSQL)
	rows, err := q.Query(ctx, sql, pgx.QueryExecModeExec)
	if err != nil {
		return nil, fmt.Errorf("check the rights in schema walferry: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Stranger])
	if err != nil {
		return nil, fmt.Errorf("check the rights in schema walferry: %w", err)
	}
	return found, nil
}

// SELECT may be granted: the tables contain no secrets. EXECUTE is not needed, and harmless: the
// functions are trigger functions.
const strangersSQL = `
with ns as (select n.oid, n.nspowner, n.nspacl from pg_catalog.pg_namespace n where n.nspname = 'walferry'),
rel as (
  select c.oid, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity, pg_catalog.format('walferry.%I', c.relname) as name,
         case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table' when 'S' then 'sequence' else 'table' end as kind
    from pg_catalog.pg_class c join ns on ns.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')),
part as ( -- what a relation consists of
  select 'pg_catalog.pg_class'::pg_catalog.regclass as classid, rel.oid as objid, rel.oid as rel from rel
  union all select 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid, i.indrelid from pg_catalog.pg_index i join rel on rel.oid = i.indrelid
  union all select 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid, d.adrelid from pg_catalog.pg_attrdef d join rel on rel.oid = d.adrelid
  union all select 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid, k.conrelid from pg_catalog.pg_constraint k join rel on rel.oid = k.conrelid)
select 'schema walferry', 'is owned by ' || pg_catalog.pg_get_userbyid(n.nspowner),
       pg_catalog.format('alter schema walferry owner to %I', current_user), 'owner'
  from ns n where {owner of n}
union all
select c.kind || ' ' || c.name, 'is owned by ' || pg_catalog.pg_get_userbyid(c.relowner),
       pg_catalog.format('alter %s %s owner to %I', c.kind, c.name, current_user), 'owner'
  from rel c where {owner of c} and not (c.relkind = 'S' and exists(select from pg_catalog.pg_depend d
        where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype in ('a', 'i')))
union all
select {routine} || ' ' || p.oid::pg_catalog.regprocedure, 'is owned by ' || pg_catalog.pg_get_userbyid(p.proowner),
       pg_catalog.format('alter %s %s owner to %I', {routine}, p.oid::pg_catalog.regprocedure, current_user), 'owner'
  from pg_catalog.pg_proc p join ns on ns.oid = p.pronamespace where {owner of p}
union all
select 'type ' || t.oid::pg_catalog.regtype, 'is owned by ' || pg_catalog.pg_get_userbyid(t.typowner),
       pg_catalog.format('alter type %s owner to %I', t.oid::pg_catalog.regtype, current_user), 'owner'
  from pg_catalog.pg_type t join ns on ns.oid = t.typnamespace
 where t.typcategory <> 'A' and (t.typrelid = 0 or exists(select from pg_catalog.pg_class c where c.oid = t.typrelid and c.relkind = 'c')) and {owner of t}
union all
select 'operator ' || o.oid::pg_catalog.regoperator, 'is owned by ' || pg_catalog.pg_get_userbyid(o.oprowner),
       pg_catalog.format('alter operator %s owner to %I', o.oid::pg_catalog.regoperator, current_user), 'owner'
  from pg_catalog.pg_operator o join ns on ns.oid = o.oprnamespace where {owner of o}
union all
select 'schema walferry', 'lets ' || case a.grantee when 0 then 'everybody' else pg_catalog.pg_get_userbyid(a.grantee) end || ' create objects in it',
       pg_catalog.format('revoke create on schema walferry from %s', case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end), 'grant'
  from ns n, pg_catalog.aclexplode(n.nspacl) a where a.privilege_type = 'CREATE' and {grantee}
union all
select c.kind || ' ' || c.name, 'lets ' || case a.grantee when 0 then 'everybody' else pg_catalog.pg_get_userbyid(a.grantee) end || ' do ' || pg_catalog.string_agg(distinct a.privilege_type, ', ' order by a.privilege_type),
       pg_catalog.format('revoke all on %s %s from %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.name, case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end), 'grant'
  from rel c, lateral (
         select x.grantee, x.privilege_type from pg_catalog.aclexplode(c.relacl) x
         union all
         select x.grantee, x.privilege_type from pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) x where t.attrelid = c.oid) a
 where a.privilege_type not in ('SELECT', 'MAINTAIN') and {grantee}
 group by c.kind, c.relkind, c.name, a.grantee
union all
select c.kind || ' ' || c.name, 'is not a table', pg_catalog.format('drop %s %s', c.kind, c.name), 'shape' from rel c where c.relkind in ('v', 'm', 'f')
union all
select 'trigger ' || pg_catalog.quote_ident(t.tgname) || ' on ' || c.name, 'is not of walferry', pg_catalog.format('drop trigger %I on %s', t.tgname, c.name), 'shape'
  from pg_catalog.pg_trigger t join rel c on c.oid = t.tgrelid where not t.tgisinternal
union all
select 'rule ' || pg_catalog.quote_ident(w.rulename) || ' on ' || c.name, 'is not of walferry', pg_catalog.format('drop rule %I on %s', w.rulename, c.name), 'shape'
  from pg_catalog.pg_rewrite w join rel c on c.oid = w.ev_class where c.relkind in ('r', 'p')
union all
select 'policy ' || pg_catalog.quote_ident(p.polname) || ' on ' || c.name, 'is not of walferry', pg_catalog.format('drop policy %I on %s', p.polname, c.name), 'shape'
  from pg_catalog.pg_policy p join rel c on c.oid = p.polrelid
union all
select c.kind || ' ' || c.name, 'has row security', pg_catalog.format('alter table %s disable row level security, no force row level security', c.name), 'shape'
  from rel c where c.relrowsecurity or c.relforcerowsecurity
union all
select c.kind || ' ' || c.name, 'has a parent or child', 'alter schema walferry rename to walferry_other', 'shape'
  from rel c where exists(select from pg_catalog.pg_inherits h where c.oid in (h.inhparent, h.inhrelid))
union all
select 'foreign key ' || pg_catalog.quote_ident(k.conname), 'is of or refers to a table there',
       pg_catalog.format('alter table %s drop constraint %I', k.conrelid::pg_catalog.regclass, k.conname), 'shape'
  from pg_catalog.pg_constraint k where k.contype = 'f' and (k.conrelid in (select oid from rel) or k.confrelid in (select oid from rel))
union all
select distinct c.kind || ' ' || c.name, 'uses ' || pg_catalog.pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), 'alter schema walferry rename to walferry_other', 'shape'
  from part join pg_catalog.pg_depend d on d.classid = part.classid and d.objid = part.objid join rel c on c.oid = part.rel
 where d.refclassid in ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass,
                        'pg_catalog.pg_opclass'::pg_catalog.regclass, 'pg_catalog.pg_collation'::pg_catalog.regclass, 'pg_catalog.pg_foreign_server'::pg_catalog.regclass)
order by 1, 2, 3`

// Trust makes sure that nothing in schema walferry belongs to others. Its error may be a
// *StrangersError.
func Trust(ctx context.Context, q Querier) error { return look(ctx, q, Grant) }

// TrustAsLocked makes sure that reading the tables in schema walferry runs no user code, whoever
// owns them, as long as the caller's locks keep them as they are. Its error may be a
// *StrangersError.
func TrustAsLocked(ctx context.Context, q Querier) error { return look(ctx, q, Grant, Owner) }

// look ignores what is of the given kinds.
func look(ctx context.Context, q Querier, pass ...Hand) error {
	strangers, err := Strangers(ctx, q)
	if err != nil {
		return err
	}
	return refuse(ctx, q, slices.DeleteFunc(strangers, func(s Stranger) bool { return slices.Contains(pass, s.Kind) }))
}

func refuse(ctx context.Context, q Querier, strangers []Stranger) error {
	if len(strangers) == 0 {
		return nil
	}
	e := &StrangersError{Strangers: strangers}
	if err := q.QueryRow(ctx, `select pg_catalog.current_database()::text`, pgx.QueryExecModeExec).Scan(&e.Database); err != nil {
		return fmt.Errorf("read the database's name: %w", err)
	}
	return e
}

// Own runs SQL that creates what walferry keeps in its schema; empty: there is nothing to create.
// In the same transaction it makes sure that what exists is walferry's own: IF NOT EXISTS accepts
// anyone's. Others' right to write, as by default privileges, is revoked. The error may be a
// *StrangersError.
func Own(ctx context.Context, conn *pgx.Conn, sql string) error {
	for attempt := 0; ; attempt++ {
		// IF NOT EXISTS, and OR REPLACE, do not keep two sessions from creating the same thing at
		// once.
		err := own(ctx, conn, sql)
		if attempt == 3 || !slices.Contains([]string{UniqueViolation, DuplicateSchema, DuplicateTable, DuplicateFunction}, State(err)) {
			return err
		}
	}
}

func own(ctx context.Context, conn *pgx.Conn, sql string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if sql != "" {
			// Before the SQL, too: altering a table may rewrite it, with its defaults.
			if err := Trust(ctx, tx); err != nil {
				return err
			}
			if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
				return err
			}
		}
		strangers, err := Strangers(ctx, tx)
		if err != nil {
			return err
		}
		var revoked bool
		for _, s := range strangers {
			if s.Kind == Grant {
				if _, err := tx.Exec(ctx, s.Fix); err != nil {
					return fmt.Errorf("%s: %w", s.Fix, err)
				}
				revoked = true
			}
		}
		if revoked { // a role that is not the owner revokes nothing, and gets only a warning
			if strangers, err = Strangers(ctx, tx); err != nil {
				return err
			}
		}
		return refuse(ctx, tx, strangers)
	})
}
