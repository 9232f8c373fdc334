package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Action is a trigger or rule of a table.
type Action struct {
	Kind   string `json:"kind"` // trigger or rule
	OID    uint32 `json:"oid"`  // of pg_trigger or pg_rewrite
	Schema string `json:"schema"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	State  string `json:"state"` // tgenabled or ev_enabled: O, D, A or R
}

// String returns the action's name for a sentence.
func (a Action) String() string {
	return fmt.Sprintf("%s %s of %s", a.Kind, Quote(a.Name), Name{a.Schema, a.Table}.String())
}

// Enable returns the SQL that sets the action's state. It does not affect the partitions' copies of
// a trigger: they are actions of their own.
func (a Action) Enable(state string) string {
	how := map[string]string{"O": "enable", "D": "disable", "A": "enable always", "R": "enable replica"}[state]
	return fmt.Sprintf("alter table only %s %s %s %s", Name{a.Schema, a.Table}.String(), how, a.Kind, Quote(a.Name))
}

// Firing is an action that fires for rows that are copied or applied.
type Firing struct {
	Action
	Copy    bool // a partition's copy of its parent's trigger
	Like    bool // and enabled as that is
	Holding bool // current_user may disable it
}

// copies are pg_depend's rows for the triggers that partitions have from their parent: 'I' in
// version 11, 'P' later. Since version 13 pg_trigger.tgparentid has the same.
const copies = `d.classid = 'pg_trigger'::regclass and d.refclassid = 'pg_trigger'::regclass and d.deptype in ('I', 'P')`

// OfFence is a condition on g, a row of pg_trigger: it is of a fence of walferry's.
const OfFence = `exists (select from pg_proc p join pg_namespace f on f.oid = p.pronamespace where p.oid = g.tgfoid and f.nspname = 'walferry' and p.proname ~ '^fence_')`

// ofOurs is the same of whatever walferry puts on a table that it may both read and write: besides the fence, what notes updates of
// --insert-only tables, and TRUNCATE on a server of version 10.
const ofOurs = `exists (select from pg_proc p join pg_namespace f on f.oid = p.pronamespace where p.oid = g.tgfoid and f.nspname = 'walferry' and p.proname ~ '^(fence_|word_|truncation$)')`

// FiringOn lists what fires for rows that are written to the named tables by a session in the
// replica role, or else by an ordinary one. It does not rely on tgisinternal, which is set for the
// copies of partitions before version 15. Those of walferry are left out. Triggers of foreign keys are included if they were set to
// fire in the replica role.
func FiringOn(ctx context.Context, q Querier, tables []Table, replica bool) ([]Firing, error) {
	schemas, names := make([]string, len(tables)), make([]string, len(tables))
	for i := range tables {
		schemas[i], names[i] = tables[i].Schema, tables[i].Name.Name
	}
	rows, err := q.Query(ctx, `
with ours as (select c.oid from unnest($1::text[], $2::text[]) as t(nsp, name)
                join pg_namespace n on n.nspname = t.nsp::name join pg_class c on c.relnamespace = n.oid and c.relname = t.name::name),
actions as (
  select 'trigger' as kind, g.oid, g.tgrelid as relid, g.tgname as name, g.tgenabled as state, p.oid is not null as copy, coalesce(p.tgenabled = g.tgenabled, false) as same,
         g.tgisinternal and (coalesce(k.contype = 'f', false) or current_setting('server_version_num')::int < 130000) as closed
    from pg_trigger g join ours o on o.oid = g.tgrelid left join pg_constraint k on k.oid = g.tgconstraint
    left join pg_depend d on d.objid = g.oid and `+copies+` left join pg_trigger p on p.oid = d.refobjid
   where (g.tgconstraint = 0 or k.contype = 't' or k.contype = 'f' and $3 and g.tgenabled in ('A', 'R')) and not `+ofOurs+`
  union all
  select 'rule', w.oid, w.ev_class, w.rulename, w.ev_enabled, false, false, false
    from pg_rewrite w join ours o on o.oid = w.ev_class where w.rulename <> '_RETURN')
select a.kind, a.oid, n.nspname::text, c.relname::text, a.name::text, a.state::text, a.copy, a.same,
       s.rolsuper or not a.closed and pg_has_role(c.relowner, 'USAGE')
  from actions a join pg_class c on c.oid = a.relid join pg_namespace n on n.oid = c.relnamespace, pg_roles s
 where s.rolname = current_user and (a.state in ('A', 'R') or a.state = 'O' and not $3)
 order by 3, 4, 1, 5`, schemas, names, replica)
	if err != nil {
		return nil, fmt.Errorf("list triggers and rules: %w", err)
	}
	firing, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f Firing, err error) {
		err = row.Scan(&f.Kind, &f.OID, &f.Schema, &f.Table, &f.Name, &f.State, &f.Copy, &f.Like, &f.Holding)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("list triggers and rules: %w", err)
	}
	return firing, nil
}

// CopiesOf returns the partitions' copies of a trigger, on every level.
func CopiesOf(ctx context.Context, q Querier, trigger uint32) (oids []uint32, err error) {
	err = q.QueryRow(ctx, `
with recursive below(oid) as (
  select d.objid from pg_depend d where d.refobjid = $1 and `+copies+`
  union select d.objid from below b join pg_depend d on d.refobjid = b.oid and `+copies+`)
select coalesce(array_agg(oid), '{}') from below`, trigger).Scan(&oids)
	if err != nil {
		return nil, fmt.Errorf("list the partitions' copies of a trigger: %w", err)
	}
	return oids, nil
}

// LaterCopies returns the copies of triggers that partitions got while those were disabled, and
// which are disabled for that reason; State is that of the trigger in the list. known are copies
// that existed before.
func LaterCopies(ctx context.Context, q Querier, triggers []Action, known []uint32) ([]Action, error) {
	var oids []uint32
	var states []string
	for _, t := range triggers {
		oids, states = append(oids, t.OID), append(states, t.State)
	}
	if known == nil {
		known = []uint32{} // <> all of NULL is not true
	}
	rows, err := q.Query(ctx, `
with recursive later(oid, state) as (
  select d.objid, t.state from unnest($1::oid[], $2::text[]) t(oid, state) join pg_depend d on d.refobjid = t.oid and `+copies+` where d.objid <> all($3::oid[])
  union select d.objid, l.state from later l join pg_depend d on d.refobjid = l.oid and `+copies+` where d.objid <> all($3::oid[]))
select 'trigger', g.oid, n.nspname::text, c.relname::text, g.tgname::text, l.state
  from later l join pg_trigger g on g.oid = l.oid join pg_class c on c.oid = g.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where g.tgenabled = 'D' order by 3, 4, 5`, oids, states, known)
	if err != nil {
		return nil, fmt.Errorf("list triggers of partitions: %w", err)
	}
	later, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Action])
	if err != nil {
		return nil, fmt.Errorf("list triggers of partitions: %w", err)
	}
	return later, nil
}

// ActionsNow finds actions again: by oid, whatever their name, else by name. It returns the
// existing ones, by their index in the list, as they are now.
func ActionsNow(ctx context.Context, q Querier, list []Action) (map[int]Action, error) {
	columns := struct {
		kinds, schemas, tables, names []string
		oids                          []uint32
	}{}
	for _, a := range list {
		columns.kinds, columns.oids = append(columns.kinds, a.Kind), append(columns.oids, a.OID)
		columns.schemas, columns.tables, columns.names = append(columns.schemas, a.Schema), append(columns.tables, a.Table), append(columns.names, a.Name)
	}
	rows, err := q.Query(ctx, `
with asked as (select * from unnest($1::text[], $2::oid[], $3::text[], $4::text[], $5::text[]) with ordinality as a(kind, oid, nsp, tbl, name, n)),
actions as (
  select 'trigger' as kind, oid, tgrelid as relid, tgname as name, tgenabled as state from pg_trigger
  union all select 'rule', oid, ev_class, rulename, ev_enabled from pg_rewrite),
named as (
  select x.kind, x.oid, n.nspname::text as nsp, c.relname::text as tbl, x.name::text as name, x.state::text as state
    from actions x join pg_class c on c.oid = x.relid join pg_namespace n on n.oid = c.relnamespace)
select distinct on (n) n - 1, kind, oid, nsp, tbl, name, state
  from (select a.n, 1, x.* from asked a join named x on x.kind = a.kind and x.oid = a.oid
        union all
        select a.n, 2, x.* from asked a join named x on x.kind = a.kind and x.nsp = a.nsp and x.tbl = a.tbl and x.name = a.name) found(n, rank, kind, oid, nsp, tbl, name, state)
 order by n, rank`, columns.kinds, columns.oids, columns.schemas, columns.tables, columns.names)
	if err != nil {
		return nil, fmt.Errorf("look for triggers and rules: %w", err)
	}
	now := map[int]Action{}
	var n int
	var a Action
	_, err = pgx.ForEachRow(rows, []any{&n, &a.Kind, &a.OID, &a.Schema, &a.Table, &a.Name, &a.State}, func() error { now[n] = a; return nil })
	if err != nil {
		return nil, fmt.Errorf("look for triggers and rules: %w", err)
	}
	return now, nil
}
