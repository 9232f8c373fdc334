package schema

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// key identifies what is created after the data, in the same way on both sides.
type key struct {
	kind, namespace, table, name string
}

// key is the zero key for entries that have none: they are harmless twice.
func (e *entry) key() key {
	switch e.kind {
	case "INDEX":
		return key{kind: "INDEX", namespace: e.namespace, name: e.tag}
	case "CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT":
		if table, name, _, ok := e.target(); ok {
			return key{kind: "CONSTRAINT", namespace: table.Schema, table: table.Name, name: name}
		}
		return key{kind: "CONSTRAINT", namespace: e.namespace, name: e.tag} // of a domain
	case "TRIGGER", "RULE":
		// Also: the state of a partition's copy of a trigger, and views that
		// could not be created in one piece.
		if !strings.HasPrefix(strings.TrimLeft(e.sql, "\n"), "CREATE "+e.kind) &&
			!strings.HasPrefix(strings.TrimLeft(e.sql, "\n"), "CREATE CONSTRAINT "+e.kind) {
			return key{}
		}
		return key{kind: e.kind, namespace: e.namespace, name: e.tag}
	case "POLICY", "STATISTICS", "EVENT TRIGGER", "MATERIALIZED VIEW DATA":
		return key{kind: e.kind, namespace: e.namespace, name: e.tag}
	}
	return key{}
}

// presence is what is known of an object that is there.
type presence struct {
	ok bool // an index is valid, a constraint validated, a materialized view filled
}

// Present is what the target has of a schema after the data.
type Present map[key]presence

// LoadPresent reads it, of all tables at once. The tag of a trigger, a rule or a policy is "table
// name".
func LoadPresent(ctx context.Context, q catalog.Querier) (Present, error) {
	rows, err := q.Query(ctx, `
with r as (
  select c.oid, c.relname::text as name, c.relkind, n.nspname::text as namespace, c.relispopulated
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p', 'v', 'm', 'f') and `+catalog.NotOurs+`)
select 'INDEX', r.namespace, '', c.relname::text, i.indisvalid or c.relkind = 'I'
  from r join pg_catalog.pg_index i on i.indrelid = r.oid join pg_catalog.pg_class c on c.oid = i.indexrelid
union all
select 'CONSTRAINT', r.namespace, r.name, o.conname::text, o.convalidated
  from r join pg_catalog.pg_constraint o on o.conrelid = r.oid
union all
select 'CONSTRAINT', n.nspname::text, '', t.typname || ' ' || o.conname, o.convalidated
  from pg_catalog.pg_constraint o join pg_catalog.pg_type t on t.oid = o.contypid
  join pg_catalog.pg_namespace n on n.oid = t.typnamespace where `+catalog.NotOurs+`
union all
select 'TRIGGER', r.namespace, '', r.name || ' ' || t.tgname, true
  from r join pg_catalog.pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
union all
select 'RULE', r.namespace, '', r.name || ' ' || w.rulename, true
  from r join pg_catalog.pg_rewrite w on w.ev_class = r.oid where w.rulename <> '_RETURN'
union all
select 'POLICY', r.namespace, '', r.name || ' ' || p.polname, true
  from r join pg_catalog.pg_policy p on p.polrelid = r.oid
union all
select 'STATISTICS', n.nspname::text, '', s.stxname::text, true
  from pg_catalog.pg_statistic_ext s join pg_catalog.pg_namespace n on n.oid = s.stxnamespace
union all
select 'EVENT TRIGGER', '', '', evtname::text, true from pg_catalog.pg_event_trigger
union all
select 'MATERIALIZED VIEW DATA', r.namespace, '', r.name, true from r where r.relkind = 'm' and r.relispopulated`)
	if err != nil {
		return nil, fmt.Errorf("list what the target has: %w", err)
	}
	found := Present{}
	var k key
	var s presence
	_, err = pgx.ForEachRow(rows, []any{&k.kind, &k.namespace, &k.table, &k.name, &s.ok}, func() error {
		found[k] = s
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list what the target has: %w", err)
	}
	return found, nil
}
