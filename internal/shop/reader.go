package shop

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Reader looks at a database again and again, each time at one snapshot, and ends with the first
// one that cannot be true. It sees what would be gone later: half a transaction, or a state that
// comes back after a newer one.
type Reader struct {
	// DSN is the database to read.
	DSN string

	// Migration, when set, is the name in walferry.migration there; nothing is read before its
	// phase is following or later. Empty: reading begins at once.
	Migration string

	// When, when set, decides in place of walferry.migration. An error means no.
	When func(context.Context, *pgx.Conn) (bool, error)

	// Interval is the time between two snapshots. Zero means 20 ms.
	Interval time.Duration

	snapshots atomic.Int64
	last      map[int]int64 // the highest n of each client that was seen
	window    int64         // the orders to compare next begin here
}

// Snapshots is how many snapshots were read and found true.
func (r *Reader) Snapshots() int64 { return r.snapshots.Load() }

// Run reads until ctx ends, and then returns nil, or until a snapshot violates an invariant: then
// the *Violation. A lost connection is made again; other errors, such as a missing table, are
// returned.
func (r *Reader) Run(ctx context.Context) error {
	if r.Interval == 0 {
		r.Interval = 20 * time.Millisecond
	}
	if r.last == nil {
		r.last = map[int]int64{}
	}
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	open := false
	for {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = connect(ctx, r.DSN); err != nil {
				conn = nil
			}
		}
		if conn != nil && !open {
			open = r.when(ctx, conn)
		}
		if conn != nil && open {
			err := inSnapshot(ctx, conn, func() error { return r.look(ctx, conn) })
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil:
				r.snapshots.Add(1)
			case !passing(err):
				return fmt.Errorf("snapshot %d: %w", r.Snapshots()+1, err)
			}
		}
		if !sleep(ctx, r.Interval) {
			return nil
		}
	}
}

func (r *Reader) when(ctx context.Context, conn *pgx.Conn) bool {
	if r.When != nil {
		yes, err := r.When(ctx, conn)
		return yes && err == nil
	}
	if r.Migration == "" {
		return true
	}
	var yes bool
	err := conn.QueryRow(ctx, `
select exists(select from walferry.migration where name = $1 and phase in ('following', 'fenced', 'drained', 'switched', 'finished'))`, r.Migration).Scan(&yes)
	return yes && err == nil
}

// passing reports whether an error says nothing about the data: the connection was lost, or the
// reader was in the way of another session.
func passing(err error) bool {
	if v := (*Violation)(nil); errors.As(err, &v) {
		return false
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return true
	}
	class := classify(err, func(error) bool { return false })
	return class == Lost || class == Conflict
}

// orderWindow is how many orders are compared with their lines in each snapshot, besides as many of
// the newest.
const orderWindow = 500

func (r *Reader) look(ctx context.Context, conn *pgx.Conn) error {
	var newest int64
	if err := conn.QueryRow(ctx, `select coalesce(max(id), 0) from shop.orders`).Scan(&newest); err != nil {
		return fmt.Errorf("check order total: %w", err)
	}
	orders := fmt.Sprintf(`o.id > %d`, newest-orderWindow)
	older := fmt.Sprintf(`o.id > %d and o.id <= %d`, r.window, r.window+orderWindow)
	if r.window += orderWindow; r.window > newest {
		r.window = 0
	}
	return errors.Join(
		r.ledger(ctx, conn),
		findings(ctx, conn, "money", money),
		findings(ctx, conn, "octet", octets),
		findings(ctx, conn, "order total", fmt.Sprintf(recentTotals, orders)),
		findings(ctx, conn, "order total", fmt.Sprintf(recentTotals, older)),
	)
}

const (
	// recentTotals is totals for a few orders: their lines are found by key.
	recentTotals = `
select format('order %%s says %%s and its lines say %%s', o.id, o.total, s.total)
  from shop.orders o, lateral (select coalesce(sum(quantity * price), 0) as total from shop."Order Lines" l where l.order_id = o.id) s
 where %s and o.total <> s.total
 order by o.id limit 10`

	// growth counts what came after the n that was seen last of each client: the rows before it
	// were looked at then. Of a client not seen before it counts all.
	growth = `
select l.client, max(l.n), coalesce(k.n, 0), count(*) filter (where l.n > coalesce(k.n, 0)), bool_or(l.n = k.n)
  from shop.ledger l left join unnest($1::int[], $2::bigint[]) k(client, n) on k.client = l.client
 where l.n >= coalesce(k.n, 0)
 group by l.client, k.n`
)

// ledger checks that each client's rows continue without a gap from where they ended in the last
// snapshot.
func (r *Reader) ledger(ctx context.Context, conn *pgx.Conn) error {
	clients, seen := []int{}, []int64{}
	for client, n := range r.last {
		clients, seen = append(clients, client), append(seen, n)
	}
	rows, err := conn.Query(ctx, growth, clients, seen)
	if err != nil {
		return fmt.Errorf("check ledger: %w", err)
	}
	missing := make(map[int]int64, len(r.last))
	for client, n := range r.last {
		missing[client] = n
	}
	var client int
	var highest, before, added int64
	var still *bool
	var errs []error
	_, err = pgx.ForEachRow(rows, []any{&client, &highest, &before, &added, &still}, func() error {
		if before == 0 || (still != nil && *still) {
			delete(missing, client)
		}
		if highest-before != added {
			errs = append(errs, &Violation{"ledger", fmt.Sprintf("client %d has %d rows from %d to %d", client, added, before+1, highest)})
		}
		r.last[client] = highest
		return nil
	})
	if err != nil {
		return fmt.Errorf("check ledger: %w", err)
	}
	for client, n := range missing {
		errs = append(errs, &Violation{"ledger", fmt.Sprintf("client %d: transaction %d was there in an earlier snapshot and is not now", client, n)})
	}
	return errors.Join(errs...)
}
