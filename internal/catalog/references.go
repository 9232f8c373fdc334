package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Reference is a foreign key of a table.
type Reference struct {
	Constraint string
	From, To   Name
}

// References lists the application's foreign keys, from version 11 on without those that partitions have from their parents.
func References(ctx context.Context, q Querier) ([]Reference, error) {
	major, err := Major(ctx, q)
	if err != nil {
		return nil, err
	}
	own := ""
	if major >= 11 {
		own = " and k.conparentid = 0"
	}
	rows, err := q.Query(ctx, `
select k.conname::text, n.nspname::text, c.relname::text, tn.nspname::text, t.relname::text
  from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_class t on t.oid = k.confrelid join pg_catalog.pg_namespace tn on tn.oid = t.relnamespace
 where k.contype = 'f' `+own+` and `+NotOurs+`
 order by 2, 3, 1, 4, 5`)
	if err != nil {
		return nil, fmt.Errorf("list foreign keys: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Reference, err error) {
		return r, row.Scan(&r.Constraint, &r.From.Schema, &r.From.Name, &r.To.Schema, &r.To.Name)
	})
	if err != nil {
		return nil, fmt.Errorf("list foreign keys: %w", err)
	}
	return list, nil
}
