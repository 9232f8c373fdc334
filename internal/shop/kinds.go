package shop

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/session"
)

// limits are how many rows there were when the writers started; they are chosen among by number.
type limits struct {
	customers, products, orders, documents, categories int64
	coupons, bins, shipments, baskets                  int64
	bookings, accounts, reserves                       int64
}

// survey reads the limits, and returns the kinds of transactions that the version of the server can
// do.
func survey(ctx context.Context, dsn string) ([]kind, limits, error) {
	var l limits
	conn, err := connect(ctx, dsn)
	if err != nil {
		return nil, l, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, `
select (select max(id) from shop.customers), (select max(id) from shop.products), (select max(id) from shop.orders),
       (select count(*) from shop.documents), (select max(id) from shop.categories), (select count(*) from shop.coupons),
       (select count(*) from shop.bins), (select max(id) from shop.shipments),
       (select reltuples::bigint from pg_class where oid = 'shop.basket_items'::regclass),
       (select max(id) from shop.bookings),
       (select max(id) from billing.accounts), (select max(id) from billing.reserves)`).Scan(
		&l.customers, &l.products, &l.orders, &l.documents, &l.categories, &l.coupons,
		&l.bins, &l.shipments, &l.baskets, &l.bookings, &l.accounts, &l.reserves)
	if err != nil {
		return nil, l, fmt.Errorf("count rows of shop: %w", err)
	}
	able := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return k.since > session.Major(conn.PgConn()) })
	return able, l, nil
}

// tx is the transaction that a kind fills.
type tx struct {
	*pgx.Conn
	*rand.Rand
	limits
	client int
	number int64 // no other transaction has it; grows with each of the client
}

func (t *tx) exec(ctx context.Context, sql string, args ...any) error {
	_, err := t.Exec(ctx, sql, args...)
	return err
}

// pick chooses from 1 to n.
func (t *tx) pick(n int64) int64 { return 1 + t.Int64N(max(n, 1)) }

// kind is something that an application does in one transaction. It may be run again from the start
// with other choices.
type kind struct {
	name   string
	weight int
	since  int // major version; zero: all
	run    func(context.Context, *tx) error
}

var kinds = []kind{
	{"order", 20, 0, newOrder},
	{"order-line", 6, 0, changeLine},
	{"payment", 10, 0, pay},
	{"status", 8, 0, changeStatus},
	{"order-delete", 4, 0, deleteOrder},
	{"stock", 8, 0, sell},
	{"customer", 7, 0, moveHouse},
	{"customer-new", 2, 0, newCustomer},
	{"customer-delete", 1, 0, deleteCustomer},
	{"review", 3, 0, review},
	{"document-title", 4, 0, retitle},
	{"document-body", 2, 0, rewrite},
	{"document-new", 1, 0, newDocument},
	{"coupon-code", 3, 0, renameCoupon},
	{"bin", 3, 0, moveBin},
	{"categories-swap", 2, 0, swapCategories},
	{"category-tree", 1, 0, growCategories},
	{"basket", 4, 0, fillBasket},
	{"basket-change", 4, 0, changeBasket},
	{"basket-delete", 3, 0, emptyBasket},
	{"events", 8, 0, appendEvents},
	{"shipment", 3, 0, ship},
	{"shipment-note", 2, 0, noteShipment},
	{"shipment-move", 6, 11, moveShipment},
	{"booking", 4, 0, book},
	{"booking-change", 3, 0, rebook},
	{"staging", 2, 0, restage},
	{"octet", 8, 0, octet},
	{"savepoints", 5, 0, savepoints},
	{"abort", 4, 0, abort},
}

// batch is the nightly one. It is not among kinds: one client does nothing else.
var batch = kind{name: "batch", weight: 1, run: reprice}

func newOrder(ctx context.Context, t *tx) error {
	var id int64
	err := t.QueryRow(ctx, `
insert into shop.orders (number, customer_id)
select md5($1::text || clock_timestamp())::uuid, id from shop.customers where id >= $2 order by id limit 1
returning id`, t.number, t.pick(t.customers)).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // the last customers are deleted
	}
	if err != nil {
		return err
	}
	for line := range 1 + t.IntN(5) {
		err := t.exec(ctx, `
insert into shop."Order Lines" (order_id, "Line No", product_id, quantity, price, "select")
select $1, $2, id, $4, price, $5 from shop.products where id = $3`,
			id, line+1, t.pick(t.products), 1+t.IntN(4), []any{nil, "", "blue", `"double" \ and 'single'`, "naïve\n\t花"}[t.IntN(5)])
		if err != nil {
			return err
		}
	}
	if err := t.exec(ctx, `update shop.orders set total = shop.order_total(id) where id = $1`, id); err != nil {
		return err
	}
	err = t.exec(ctx, `
insert into billing.invoices (id, order_id, net, issued, lines)
select md5('invoice' || number)::uuid, id, total, current_date, jsonb_build_array(total, null, 'x')
  from shop.orders where id = $1`, id)
	if err != nil {
		return err
	}
	if t.IntN(4) == 0 {
		err := t.exec(ctx, `
insert into shop.redemptions (code, order_id)
select code, $1 from shop.coupons order by code offset $2 limit 1`, id, t.Int64N(t.coupons))
		if err != nil {
			return err
		}
	}
	return t.exec(ctx, `insert into shop.events (kind, origin, payload) values ('order', '10.1.1.1', jsonb_build_object('order', $1::bigint))`, id)
}

// changeLine keeps the total of the order true. The order is locked first.
func changeLine(ctx context.Context, t *tx) error {
	id := t.pick(t.orders)
	if err := t.exec(ctx, `select from shop.orders where id = $1 for update`, id); err != nil {
		return err
	}
	if err := t.exec(ctx, `update shop."Order Lines" set quantity = 1 + (quantity + 1) % 9 where order_id = $1 and "Line No" = $2`, id, 1+t.IntN(3)); err != nil {
		return err
	}
	if t.IntN(3) == 0 {
		if err := t.exec(ctx, `delete from shop."Order Lines" where order_id = $1 and "Line No" = 5`, id); err != nil {
			return err
		}
	}
	return t.exec(ctx, `update shop.orders set total = shop.order_total(id), revision = revision + 1 where id = $1`, id)
}

func pay(ctx context.Context, t *tx) error {
	var invoice, order any
	err := t.QueryRow(ctx, `
select id::text, order_id from billing.invoices where not paid
 order by issued desc limit 1 offset $1 for update skip locked`, t.IntN(50)).Scan(&invoice, &order)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := t.exec(ctx, `update billing.invoices set paid = true where id = $1::uuid`, invoice); err != nil {
		return err
	}
	err = t.exec(ctx, `
insert into billing.payments (reference, invoice_id, amount, method)
select 'W-' || $1::text, id, net, 'card' from billing.invoices where id = $2::uuid`, t.number, invoice)
	if err != nil {
		return err
	}
	if t.IntN(3) == 0 {
		err := t.exec(ctx, `update billing.payments set amount = amount + 0.00, method = 'cash' where reference = 'W-' || $1::text`, t.number)
		if err != nil {
			return err
		}
	}
	return t.exec(ctx, `update shop.orders set status = 'paid', revision = revision + 1 where id = $1`, order)
}

func changeStatus(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
update shop.orders set revision = revision + 1, status = case status
    when 'new' then 'paid' when 'paid' then 'packed' when 'packed' then 'sent' when 'sent' then 'closed' else 'new' end::shop.order_status
 where id = $1`, t.pick(t.orders))
}

// deleteOrder takes lines, redemptions, invoice, payments and, from 11 on, shipments with it.
func deleteOrder(ctx context.Context, t *tx) error {
	return t.exec(ctx, `delete from shop.orders where id = (select id from shop.orders where id >= $1 order by id limit 1)`, t.pick(t.orders))
}

// sell updates rows that all clients want, in an order that they keep to.
func sell(ctx context.Context, t *tx) error {
	products := []int64{t.pick(5), t.pick(20), t.pick(t.products)}
	slices.Sort(products)
	for _, product := range slices.Compact(products) {
		err := t.exec(ctx, `update shop.stock set quantity = quantity - $2, counted_at = clock_timestamp() where warehouse_id = 1 and product_id = $1`,
			product, 1+t.IntN(3))
		if err != nil {
			return err
		}
	}
	return nil
}

func moveHouse(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
update shop.customers
   set address = jsonb_set(address, '{street}', to_jsonb('No. ' || $2::text)) || jsonb_build_object('since', clock_timestamp()),
       phones = case when cardinality(phones) > 4 then '{}' else phones || ('+44 ' || $2::text) || null::text end,
       home = row('Lane "' || $2::text || '"', null, '')::shop.postal,
       preferences = case when $2::bigint % 3 = 0 then null else coalesce(preferences, '') || public.hstore('v', $2::text) end,
       tier = 'gold'
 where id = $1`, t.pick(t.customers), t.number)
}

func newCustomer(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
insert into shop.customers (email, name, country, address)
values ('new.' || $1::text || '@example.org', 'New ' || $1::text, 'AA', '{"street": null}')`, t.number)
}

// deleteCustomer deletes one without orders; the reviews go, the documents stay.
func deleteCustomer(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
delete from shop.customers c where id = (
    select id from shop.customers f where id >= $1 and not exists(select from shop.orders o where o.customer_id = f.id)
     order by id limit 1)`, t.pick(t.customers))
}

func review(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
insert into shop.reviews (customer_id, product_id, rating, body)
select id, $2, $3, $4 from shop.customers where id = $1
    on conflict (customer_id, product_id) do update set rating = excluded.rating, at = clock_timestamp()`,
		t.pick(t.customers), t.pick(t.products), 1+t.IntN(5), []any{nil, "", "Bon marché"}[t.IntN(3)])
}

// retitle leaves the long text as it is: the change does not carry it.
func retitle(ctx context.Context, t *tx) error {
	return t.exec(ctx, `update shop.documents set title = 'Title ' || $2::text, revision = revision + 1 where id = md5('document' || $1::text)::uuid`,
		t.pick(t.documents), t.number)
}

// rewrite changes the long text, and every other time leaves the scan beside it alone.
func rewrite(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
update shop.documents
   set body = $2::text || ':' || reverse(substr(body, 1, 150000)), revision = revision + 1,
       scan = case when $3 then scan when scan is null then decode(repeat(md5($2::text), 200), 'hex') end
 where id = md5('document' || $1::text)::uuid`, t.pick(t.documents), t.number, t.IntN(2) == 0)
}

func newDocument(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
insert into shop.documents (id, kind, title, body)
select md5('new' || $1::text || clock_timestamp())::uuid, 'letter', 'New ' || $1::text, string_agg(md5($1::text || g), '')
  from generate_series(1, $2) g`, t.number, 320+t.IntN(2000))
}

// renameCoupon changes a natural key, which its redemptions follow. Mostly only the case changes,
// which makes the same citext and another value.
func renameCoupon(ctx context.Context, t *tx) error {
	rename := `update shop.coupons set code = case when code::text = upper(code::text) then initcap(code::text) else upper(code::text) end where code = $1`
	if t.IntN(3) == 0 {
		rename = `update shop.coupons set code = case when code::text like '%\_' then left(code::text, -1) else code::text || '_' end, percent = percent + 1 where code = $1`
	}
	var code string
	err := t.QueryRow(ctx, `select code::text from shop.coupons order by code offset $1 limit 1 for update`, t.Int64N(t.coupons)).Scan(&code)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.exec(ctx, rename, code)
}

// moveBin changes one column of a composite key, there and back.
func moveBin(ctx context.Context, t *tx) error {
	bin := t.pick(t.bins)
	return t.exec(ctx, `
update shop.bins set bin = case when bin > 1000000 then bin - 1000000 else bin + 1000000 end, quantity = quantity + 1
 where warehouse_id = $1 and bin in ($2, $2 + 1000000)`, 1+bin%4, bin)
}

// swapCategories swaps two values of a unique constraint, which is deferred.
func swapCategories(ctx context.Context, t *tx) error {
	if err := t.exec(ctx, `set constraints all deferred`); err != nil {
		return err
	}
	// Sisters are all locked, in order: two clients may swap different pairs of them.
	parent := t.pick(24)
	if err := t.exec(ctx, `select from shop.categories where parent_id = $1 order by id for update`, parent); err != nil {
		return err
	}
	a, b := t.IntN(8), t.IntN(8)
	if err := t.exec(ctx, `update shop.categories set position = $3 where parent_id = $1 and position = $2`, parent, a, -1); err != nil {
		return err
	}
	if err := t.exec(ctx, `update shop.categories set position = $3 where parent_id = $1 and position = $2`, parent, b, a); err != nil {
		return err
	}
	if err := t.exec(ctx, `update shop.categories set position = $3 where parent_id = $1 and position = $2`, parent, -1, b); err != nil {
		return err
	}
	// And in one statement, which holds equal values for a moment.
	return t.exec(ctx, `
update shop.categories set position = case position when $2 then $3 else $2 end
 where parent_id = $1 and position in ($2, $3)`, parent, 6, 7)
}

// growCategories writes a child before its parent; the constraint is looked at by COMMIT.
func growCategories(ctx context.Context, t *tx) error {
	var parent, child int64
	err := t.QueryRow(ctx, `select nextval('shop.categories_id_seq'), nextval('shop.categories_id_seq')`).Scan(&parent, &child)
	if err != nil {
		return err
	}
	if err := t.exec(ctx, `insert into shop.categories (id, parent_id, position, name) values ($1, $2, 0, 'child')`, child, parent); err != nil {
		return err
	}
	return t.exec(ctx, `insert into shop.categories (id, parent_id, position, name) values ($1, null, 0, 'parent')`, parent)
}

// fillBasket inserts the same row several times.
func fillBasket(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
insert into shop.basket_items select md5('session' || $1::bigint)::uuid, nullif($1 % 50, 0), 1, null from generate_series(1, $2)`,
		t.pick(t.baskets/3), 1+t.IntN(3))
}

// changeBasket changes one of several equal rows.
func changeBasket(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
update shop.basket_items set quantity = quantity % 3 + 1
 where ctid = (select ctid from shop.basket_items where session = md5('session' || $1::text)::uuid limit 1 for update)`, t.pick(t.baskets/3))
}

// emptyBasket deletes one of several equal rows.
func emptyBasket(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
delete from shop.basket_items
 where ctid = (select ctid from shop.basket_items where session = md5('session' || $1::text)::uuid limit 1 for update)`, t.pick(t.baskets/3))
}

func appendEvents(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
insert into shop.events (kind, origin, payload)
select 'view', '2001:db8::1', jsonb_build_object('number', $1::bigint, 'i', i) from generate_series(1, $2) i`, t.number, 1+t.IntN(5))
}

func ship(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
insert into shop.shipments (id, order_id, state, weight, at)
select $1, id, 'waiting', 'NaN', clock_timestamp() from shop.orders where id >= $2 order by id limit 1`, t.number, t.pick(t.orders))
}

func noteShipment(ctx context.Context, t *tx) error {
	return t.exec(ctx, `update shop.shipments set note = $2, weight = weight + 0.10 where id = $1`, t.pick(t.shipments), fmt.Sprint("seen by ", t.client))
}

// moveShipment moves a row to another partition: a DELETE and an INSERT.
func moveShipment(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
update shop.shipments set at = clock_timestamp(), state = case state
    when 'waiting' then 'moving' when 'moving' then 'delivered' when 'delivered' then 'lost' else 'waiting' end::shop.shipment_state
 where id = $1`, t.pick(t.shipments))
}

// book may be too late for a dock: a failure that the client reports.
func book(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
insert into shop.bookings (dock, during, holder)
select $1, tstzrange(s, s + interval '90 minutes', $3), 'client ' || $4::text
  from (select timestamptz '2031-01-01 00:00+00' + $2 * interval '2 hours') q(s)`,
		1+t.IntN(5), t.IntN(5000), []string{"[)", "(]", "[]"}[t.IntN(3)], t.client)
}

func rebook(ctx context.Context, t *tx) error {
	id := t.pick(t.bookings)
	if t.IntN(5) == 0 {
		return t.exec(ctx, `delete from shop.bookings where id = $1`, id)
	}
	return t.exec(ctx, `update shop.bookings set during = tstzrange(lower(during), upper(during) + interval '7 minutes') where id = $1`, id)
}

// restage refills the staging table.
func restage(ctx context.Context, t *tx) error {
	if err := t.exec(ctx, `truncate shop.staging`); err != nil {
		return err
	}
	return t.exec(ctx, `insert into shop.staging select $1, i, 'row ' || i from generate_series(1, $2) i`, t.number, 20+t.IntN(60))
}

// octet writes one number to eight tables.
func octet(ctx context.Context, t *tx) error {
	id := t.pick(32)
	for table := range 8 {
		if err := t.exec(ctx, fmt.Sprintf(`update shop.octet_%d set number = $2 where id = $1`, table+1), id, t.number); err != nil {
			return err
		}
	}
	return nil
}

// savepoints rolls back to one, releases one, and nests a third, so that of the inner transactions
// some are in the commit and some are not.
func savepoints(ctx context.Context, t *tx) error {
	event := `insert into shop.events (kind, payload) values ('savepoint', jsonb_build_object('number', $1::bigint, 'step', $2::text))`
	ticket := `insert into shop.tickets (subject) values ($1)`
	steps := []struct {
		sql  string
		args []any
	}{
		{sql: `savepoint a`},
		{event, []any{t.number, "rolled back"}},
		{ticket, []any{"rolled back"}},
		{sql: `rollback to savepoint a`},
		{event, []any{t.number, "kept"}},
		{sql: `savepoint b`},
		{ticket, []any{fmt.Sprint("kept ", t.number)}},
		{sql: `savepoint c`},
		{`update shop.tickets set subject = subject || '!' where id = $1`, []any{t.pick(400)}},
		{sql: `release savepoint c`},
		{sql: `release savepoint b`},
	}
	for _, step := range steps {
		if err := t.exec(ctx, step.sql, step.args...); err != nil {
			return err
		}
	}
	return nil
}

// abort does much and then nothing of it.
func abort(ctx context.Context, t *tx) error {
	for _, do := range []func(context.Context, *tx) error{newOrder, octet, retitle} {
		if err := do(ctx, t); err != nil {
			return err
		}
	}
	return errAbort
}

// reprice rewrites 50,000 rows, or half of them when there are fewer.
func reprice(ctx context.Context, t *tx) error {
	return t.exec(ctx, `
update shop.price_history set price = round(price * 1.01 + 0.01, 2) % 90000, revision = revision + 1
 where (product_id, valid_from) in (
    select product_id, valid_from from shop.price_history where product_id >= $1 order by product_id, valid_from
     limit (select least(50000, count(*) / 2) from shop.price_history))`, t.pick(t.products/2))
}
