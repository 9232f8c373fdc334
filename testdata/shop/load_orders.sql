-- Everything is computed from the row's number: each load gives the same data
-- on every version. Row counts come as settings shop.*;
-- each is read by a subquery, which is run once and not for each row.

insert into shop."Order Lines" (order_id, "Line No", product_id, quantity, price, "select")
select i, l, p, 1 + (i + l) % 4, (100 + p * 37 % 9900) / 100.0, case when i % 7 = 0 then 'colour ' || p % 9 end
  from generate_series(1, current_setting('shop.orders')::int) i,
       generate_series(1, 1 + i % 5) l,
       lateral (select 1 + (i * 31 + l * 7) % (select current_setting('shop.products')::int)) q(p);

insert into shop.orders (id, number, customer_id, status, total, placed_at)
select i, md5('order' || i)::uuid, 1 + i * 7919::bigint % (select current_setting('shop.customers')::int),
       ('{new,paid,packed,sent,closed,cancelled}'::shop.order_status[])[1 + i % 6],
       s.total, timestamptz '2023-01-01 00:00+00' + i * interval '137 seconds'
  from (select order_id as i, sum(quantity * price) as total from shop."Order Lines" group by order_id) s
 order by i;
select setval('shop.orders_id_seq', current_setting('shop.orders')::int);

insert into billing.invoices (id, number, order_id, net, paid, issued, lines)
select md5('invoice' || id)::uuid, 100003 + 7 * id, id, total, status not in ('new', 'cancelled'), placed_at::date,
       case when id % 3 = 0 then jsonb_build_array(jsonb_build_object('text', 'goods', 'net', total), jsonb_build_object('text', 'postage', 'net', 0)) end
  from shop.orders;
select setval('billing.invoice_no', 100003 + 7 * current_setting('shop.orders')::bigint);

insert into billing.payments (reference, invoice_id, amount, method, paid_at)
select 'P-' || order_id, id, net, ('{card,transfer,cash}'::billing.method[])[1 + order_id % 3], issued + interval '3 days'
  from billing.invoices where paid;
