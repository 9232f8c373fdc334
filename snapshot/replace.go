package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
)

// Replacement replaces the rows of a table of the target by those of a snapshot of the source in
// one transaction: until it commits everyone sees the old rows, and a failure leaves them in place.
type Replacement struct {
	source, target *pgx.Conn
	table          *matched
	checks         []check
	pipe           atomic.Pointer[pipe]
}

// check is a constraint that older rows may violate.
type check struct{ Name, Definition string }

// ReplaceError means that the rows of a table of the target cannot be replaced as it is.
type ReplaceError struct {
	Table   Table
	Problem string
	advice  string
}

func (e *ReplaceError) Error() string { return fmt.Sprintf("%s: %s", e.Table, e.Problem) }

// Hint tells the operator what to do.
func (e *ReplaceError) Hint() string { return e.advice }

// NewReplacement looks up both sides and locks both tables, so that the source's is not rewritten
// and the target's not truncated before the transactions end. The source's session must be in a
// transaction that has the snapshot; the target's in a REPEATABLE READ transaction, which sees the
// rows to be deleted, and none that are added from now on, which remain.
func NewReplacement(ctx context.Context, source, target *pgx.Conn, t Table) (*Replacement, error) {
	tables, err := match(ctx, source, target, []Table{t})
	if err != nil {
		return nil, err
	}
	if len(tables) == 0 {
		return nil, fmt.Errorf("%s is partitioned: it has no rows of its own", t)
	}
	r := &Replacement{source: source, target: target, table: tables[0]}
	if err := r.obstacles(ctx); err != nil {
		return nil, err
	}
	mode := "row exclusive"
	if len(r.checks) > 0 {
		mode = "access exclusive"
	}
	if _, err := source.Exec(ctx, "lock table only "+r.table.source.String()+" in access share mode"); err != nil {
		return nil, onSource(err)
	}
	if _, err := target.Exec(ctx, "lock table only "+r.table.target+" in "+mode+" mode"); err != nil {
		return nil, onTarget(err)
	}
	return r, nil
}

// Filenode returns where the source stores the rows that will be read.
func (r *Replacement) Filenode(ctx context.Context) (node uint32, err error) {
	err = r.source.QueryRow(ctx, "select coalesce(pg_relation_filenode($1::oid), 0)", r.table.source.oid).Scan(&node)
	return node, err
}

// obstacles lists the checks that would reject old rows, and returns an error if the target's
// foreign keys or rules would act on the deletion.
func (r *Replacement) obstacles(ctx context.Context) error {
	rows, err := r.target.Query(ctx, `
select conname::text, pg_get_constraintdef(oid) from pg_constraint
 where conrelid = to_regclass($1) and contype in ('c', 'n') and not convalidated and coninhcount = 0 and coalesce((to_jsonb(pg_constraint) ->> 'conenforced')::bool, true)`, r.table.target)
	if err != nil {
		return onTarget(err)
	}
	if r.checks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[check]); err != nil {
		return onTarget(err)
	}
	var replica bool
	var acting []string
	err = r.target.QueryRow(ctx, `
select current_setting('session_replication_role') = 'replica',
       (select coalesce(array_agg(o order by o), '{}') from (
          select 'foreign key ' || quote_ident(conname) || ' of ' || conrelid::regclass from pg_constraint where contype = 'f' and confrelid = to_regclass($1)
          union all
          select 'rule ' || quote_ident(rulename) from pg_rewrite where ev_class = to_regclass($1) and ev_type = '4' and ev_enabled in ('O', 'A')) acting(o))`,
		r.table.target).Scan(&replica, &acting)
	if err != nil {
		return onTarget(err)
	}
	if len(acting) > 0 && !replica {
		return &ReplaceError{
			r.table.Table, fmt.Sprintf("the target's %v would act when its rows are replaced, as the role may not set session_replication_role", acting),
			"drop or disable it on the target until the cutover, or grant the role SET ON PARAMETER session_replication_role (from version 15 on)",
		}
	}
	return nil
}

// Run replaces the rows. The caller commits.
func (r *Replacement) Run(ctx context.Context) (rows int64, err error) {
	t := r.table.target
	for _, c := range r.checks {
		if _, err := r.target.Exec(ctx, fmt.Sprintf("alter table only %s drop constraint %s", t, catalog.Quote(c.Name))); err != nil {
			return 0, onTarget(fmt.Errorf("drop a check that older rows violate: %w", err))
		}
	}
	if _, err := r.target.Exec(ctx, "delete from only "+t); err != nil {
		return 0, onTarget(err)
	}
	w := &worker{source: r.source, target: r.target, spare: newSpare()}
	p := newPipe(w.spare)
	r.pipe.Store(p)
	table := &tableCopy{matched: r.table}
	var sent, stored int64
	if len(r.table.columns) == 0 {
		sent, stored, err = w.moveCount(ctx, table)
	} else {
		sent, stored, err = w.move(ctx, table, "", p)
	}
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == catalog.CheckViolation {
		return 0, &ReplaceError{
			r.table.Table, "rows of the source violate a constraint of the target that is inherited, and so cannot be put aside: " + server.Message,
			"drop it on the target, from the table that it comes from; when this table has been copied again, add it there as it was, NOT VALID",
		}
	}
	if err != nil {
		return 0, err
	}
	if sent != stored {
		return 0, &RowCountError{Sent: sent, Stored: stored}
	}
	for _, c := range r.checks {
		if _, err := r.target.Exec(ctx, fmt.Sprintf("alter table only %s add constraint %s %s", t, catalog.Quote(c.Name), c.Definition)); err != nil {
			return 0, onTarget(fmt.Errorf("put a check back: %w", err))
		}
	}
	return stored, nil
}

// Rows returns how many rows have been read so far. It may be called during Run.
func (r *Replacement) Rows() int64 {
	if p := r.pipe.Load(); p != nil {
		return p.rows.Load()
	}
	return 0
}
