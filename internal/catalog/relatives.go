package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Parent is a table above others, by inheritance or partitioning. A statement on it changes their
// rows, and does not fire their statement triggers.
type Parent struct {
	OID uint32
	Name
	Kind      byte // r, p, or f for a foreign table
	Owner     string
	OwnerLike bool // current_user owns it, directly or by membership
}

// Subscription is a subscription of the database, into some tables. An apply worker executes no
// statements on them, so it fires no statement triggers.
type Subscription struct {
	Name    string
	Enabled bool
	Tables  []string // it writes to these, as SQL
}

// Parents lists the tables above the given ones that are not among them.
func Parents(ctx context.Context, q Querier, oids []uint32) ([]Parent, error) {
	rows, err := q.Query(ctx, `
with recursive above(oid) as (
  select inhparent from pg_catalog.pg_inherits where inhrelid = any($1::oid[])
  union select i.inhparent from pg_catalog.pg_inherits i join above a on a.oid = i.inhrelid)
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, pg_catalog.pg_get_userbyid(c.relowner)::text, pg_catalog.pg_has_role(c.relowner, 'USAGE')
  from above a join pg_catalog.pg_class c on c.oid = a.oid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.oid <> all($1::oid[]) order by 2, 3`, oids)
	if err != nil {
		return nil, fmt.Errorf("list parents of migrated tables: %w", err)
	}
	parents, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Parent, err error) {
		var kind string
		err = row.Scan(&p.OID, &p.Schema, &p.Name.Name, &kind, &p.Owner, &p.OwnerLike)
		p.Kind = (kind + "?")[0]
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("list parents of migrated tables: %w", err)
	}
	return parents, nil
}

// StopSQL stops a subscription's writes, and keeps what it receives meanwhile.
func (s Subscription) StopSQL() string {
	return "alter subscription " + Quote(s.Name) + " disable"
}

// Subscriptions lists the database's subscriptions that write to one of the given tables, or to
// what one is a partition of, with these tables. Ordinary roles may read only some columns of
// pg_subscription, on versions 10 and 11 not its oid, which pg_stat_subscription shows.
func Subscriptions(ctx context.Context, q Querier, oids []uint32) (list []Subscription, fed []uint32, err error) {
	rows, err := q.Query(ctx, `
with recursive fed(subscription, root, oid) as (
  select distinct r.srsubid, r.srrelid, r.srrelid from pg_catalog.pg_subscription_rel r
  union select f.subscription, f.root, i.inhrelid from pg_catalog.pg_inherits i join fed f on f.oid = i.inhparent
         join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relispartition)
select distinct s.subname::text, s.subenabled, f.root::pg_catalog.regclass::text, f.oid
  from fed f join pg_catalog.pg_stat_subscription v on v.subid = f.subscription
  join pg_catalog.pg_subscription s on s.subname = v.subname
   and s.subdbid = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
 where f.oid = any($1::oid[]) order by 1, 3`, oids)
	if err != nil {
		return nil, nil, fmt.Errorf("list subscriptions: %w", err)
	}
	var one Subscription
	var table string
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&one.Name, &one.Enabled, &table, &oid}, func() error {
		if len(list) == 0 || list[len(list)-1].Name != one.Name {
			list = append(list, one)
		}
		last := &list[len(list)-1]
		if !slices.Contains(last.Tables, table) {
			last.Tables = append(last.Tables, table)
		}
		fed = append(fed, oid)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list subscriptions: %w", err)
	}
	return list, fed, nil
}

// Decodes reports whether a server of a version decodes its WAL with this wal_level. From version 19 on the first logical slot
// makes one with replica do so.
func Decodes(major int, walLevel string) bool {
	return walLevel == "logical" || major >= 19 && walLevel == "replica"
}

// PublishedWhole lists the publications FOR ALL TABLES, as SQL, with their owners: whatever table is made is sent to their subscribers.
func PublishedWhole(ctx context.Context, q Querier) (list []string, err error) {
	err = q.QueryRow(ctx, `
select coalesce(array_agg(format('%s (of %s)', quote_ident(pubname), quote_ident(pg_catalog.pg_get_userbyid(pubowner))) order by pubname), '{}')
  from pg_catalog.pg_publication where puballtables`).Scan(&list)
	if err != nil {
		return nil, fmt.Errorf("list publications FOR ALL TABLES: %w", err)
	}
	return list, nil
}
