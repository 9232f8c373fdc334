package shop

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Violation is something in a database that no sequence of whole transactions leads to.
type Violation struct {
	Invariant string // ledger, money, octet, order total or clients
	Detail    string // what was found
}

func (v *Violation) Error() string { return v.Invariant + ": " + v.Detail }

// Check looks at a database alone: the ledger has neither gaps nor rows twice, all money is there,
// the octet tables agree, and each order's total is the sum of its lines. All is read from one
// snapshot. Of several violations each is in the error, as a *Violation.
func Check(ctx context.Context, dsn string) error {
	conn, err := connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("check shop: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return inSnapshot(ctx, conn, func() error { return invariants(ctx, conn) })
}

// Check does what the function [Check] does, and also compares the database with what the clients
// were told: every transaction that was committed is there, none that failed is. dsn is the
// database that the clients wrote to last. It is called when they have stopped.
func (w *Writers) Check(ctx context.Context, dsn string) error {
	conn, err := connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("check shop: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return inSnapshot(ctx, conn, func() error {
		errs := []error{invariants(ctx, conn)}
		for _, c := range w.clients {
			errs = append(errs, c.check(ctx, conn))
		}
		return errors.Join(append(errs, w.seen()...)...)
	})
}

// inSnapshot reads from one snapshot.
func inSnapshot(ctx context.Context, conn *pgx.Conn, read func() error) error {
	if _, err := conn.Exec(ctx, `begin isolation level repeatable read read only`); err != nil {
		return fmt.Errorf("check shop: %w", err)
	}
	err := read()
	if _, rollback := conn.Exec(ctx, `rollback`); rollback != nil && err == nil {
		err = fmt.Errorf("check shop: %w", rollback)
	}
	return err
}

// invariants returns every violation of what holds at each commit.
func invariants(ctx context.Context, conn *pgx.Conn) error {
	return errors.Join(
		findings(ctx, conn, "ledger", gaps),
		findings(ctx, conn, "money", money),
		findings(ctx, conn, "octet", octets),
		findings(ctx, conn, "order total", totals),
	)
}

// Each of these returns a text for each violation, and no row when there is none.
const (
	// gaps: n counts from 1. Two rows of one n would be two of a key; where the index is missing or
	// damaged they are still seen by this.
	gaps = `
select format('client %s has %s rows from %s to %s, of which %s different', client, count(*), min(n), max(n), count(distinct n))
  from shop.ledger group by client
having min(n) <> 1 or max(n) <> count(*) or count(distinct n) <> count(*)
 order by client`

	money = `
select format('there are %s in accounts and %s in reserves, together %s and not %s', a, r, a + r, total)
  from (select sum(balance) from billing.accounts) x(a), (select sum(balance) from billing.reserves) y(r), billing.books
 where a + r is distinct from total`

	octets = `
select format('id %s holds %s', id, array_agg(format('%s in octet_%s', number, t) order by t))
  from (select 1, id, number from shop.octet_1 union all select 2, id, number from shop.octet_2
        union all select 3, id, number from shop.octet_3 union all select 4, id, number from shop.octet_4
        union all select 5, id, number from shop.octet_5 union all select 6, id, number from shop.octet_6
        union all select 7, id, number from shop.octet_7 union all select 8, id, number from shop.octet_8) q(t, id, number)
 group by id
having count(*) <> 8 or count(distinct number) <> 1
 order by id`

	totals = `
select format('order %s says %s and its lines say %s', o.id, o.total, s.total)
  from shop.orders o
  left join (select order_id, sum(quantity * price) as total from shop."Order Lines" group by order_id) s on s.order_id = o.id
 where o.total <> coalesce(s.total, 0)
 order by o.id limit 10`
)

// findings turns the rows of a query into violations.
func findings(ctx context.Context, conn *pgx.Conn, invariant, sql string) error {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return fmt.Errorf("check %s: %w", invariant, err)
	}
	details, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("check %s: %w", invariant, err)
	}
	var errs []error
	for _, detail := range details {
		errs = append(errs, &Violation{invariant, detail})
	}
	return errors.Join(errs...)
}

// check compares the client's log with the ledger.
func (c *client) check(ctx context.Context, conn *pgx.Conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	rows, err := conn.Query(ctx, `select n, attempt from shop.ledger where client = $1 and n > $2`, c.id, c.base)
	if err != nil {
		return fmt.Errorf("read ledger of client %d: %w", c.id, err)
	}
	found := map[int64]int{}
	var n int64
	var attempt int
	_, err = pgx.ForEachRow(rows, []any{&n, &attempt}, func() error {
		found[n] = attempt
		return nil
	})
	if err != nil {
		return fmt.Errorf("read ledger of client %d: %w", c.id, err)
	}
	var details []string
	for i, d := range c.log {
		n := c.base + int64(i) + 1
		switch attempt, ok := found[n]; {
		case !ok:
			details = append(details, fmt.Sprintf("transaction %d of client %d, committed on the %s, is missing", n, c.id, d.side))
		case attempt != d.attempt:
			details = append(details, fmt.Sprintf("transaction %d of client %d is there by attempt %d, which failed, and not by %d, which was committed on the %s", n, c.id, attempt, d.attempt, d.side))
		}
		delete(found, n)
	}
	for n, attempt := range found {
		if c.pending != 0 && attempt == c.pending && n == c.base+int64(len(c.log))+1 {
			continue // its client never heard
		}
		details = append(details, fmt.Sprintf("transaction %d of client %d is there by attempt %d, which failed", n, c.id, attempt))
	}
	if len(details) > 10 {
		details = append(details[:10], fmt.Sprintf("and %d more", len(details)-10))
	}
	if details == nil {
		return nil
	}
	return &Violation{"ledger", strings.Join(details, "; ")}
}
