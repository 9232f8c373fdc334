insert into shop.countries
select chr(65 + i / 26) || chr(65 + i % 26), 'Country ' || i from generate_series(0, 99) i;

insert into shop.customers (id, email, name, tier, country, address, home, phones, preferences, created_at)
overriding system value
select i, 'Customer.' || i || '@Example.org',
       (array['Ada', 'Björn', 'Chloé', 'Dmitrij', 'Elif', 'François', 'Gül', '花子'])[1 + i % 8] || ' ' || (array['O''Brien', 'Müller', 'Smith', 'Łukasz', 'Σωκράτης'])[1 + i % 5],
       ('{bronze,silver,gold}'::shop.tier[])[1 + i % 3],
       chr(65 + i % 100 / 26) || chr(65 + i % 100 % 26),
       jsonb_build_object('street', i || ' Long Lane', 'city', 'Town ' || i % 500, 'lines', jsonb_build_array('c/o', null, i)),
       case when i % 4 > 0 then row('Backstreet "' || i || '"', lpad((i % 99999)::text, 5, '0'), 'Village, ' || i % 700)::shop.postal end,
       case i % 3 when 0 then '{}' when 1 then array['+49 30 ' || i] else array['+49 30 ' || i, 'ext "' || i % 10 || '"', null] end,
       public.hstore('news', (i % 2 = 0)::text) || public.hstore('colour', nullif('c' || i % 7, 'c0')),
       timestamptz '2019-05-01 00:00+00' + i * interval '97 minutes'
  from generate_series(1, current_setting('shop.customers')::int) i;
select setval(pg_get_serial_sequence('shop.customers', 'id'), current_setting('shop.customers')::int);

insert into shop.categories (id, parent_id, position, name)
select i, nullif(i / 8, 0), i % 8, 'Category ' || i from generate_series(1, 200) i;
select setval('shop.categories_id_seq', 200);

insert into shop.products (id, sku, category_id, name, price, attributes, sizes, weight, factor, active)
overriding system value
select i, 'SKU-' || lpad(i::text, 7, '0'), 1 + i % 200, 'Product ' || i, (100 + i * 37 % 9900) / 100.0,
       jsonb_build_object('colours', jsonb_build_array('red', 'green'), 'depth', i % 90), int4range(i % 30, i % 30 + 10),
       i % 1000 * 0.1::real, 1.0::float8 / i, i % 20 > 0
  from generate_series(1, current_setting('shop.products')::int) i;
select setval(pg_get_serial_sequence('shop.products', 'id'), current_setting('shop.products')::int);

insert into shop.price_history (product_id, valid_from, price)
select p, date '2020-01-01' + d * 30, (100 + (p * 37 + d) % 9900) / 100.0
  from generate_series(1, current_setting('shop.products')::int) p, generate_series(1, 50) d;

insert into shop.warehouses
select i, 'Warehouse ' || i, point(i * 1.5, -i / 3.0) from generate_series(1, 4) i;

insert into shop.stock
select w, p, 1000 + p % 500, timestamptz '2024-01-01 00:00+00'
  from generate_series(1, 4) w, generate_series(1, current_setting('shop.products')::int) p;

insert into shop.bins
select 1 + b % 4, b, 1 + b % (select current_setting('shop.products')::int), b % 50 from generate_series(1, 500) b;

insert into shop.coupons
select case when i % 2 = 0 then 'Save-' else 'WELCOME ' end || i, i % 50, daterange(date '2024-01-01' + i, date '2025-01-01' + i)
  from generate_series(1, 300) i;

insert into shop.redemptions
select case when i % 300 % 2 = 1 then 'Save-' else 'WELCOME ' end || (1 + i % 300), i, timestamptz '2024-03-01 00:00+00' + i * interval '1 hour'
  from generate_series(1, current_setting('shop.orders')::int / 20) i;

insert into shop.reviews
select 1 + i % c, 1 + (i / c + i % c) % (select current_setting('shop.products')::int), 1 + i % 5,
       'It was ' || repeat('very ', i % 20) || 'good.', timestamptz '2024-02-01 00:00+00' + i * interval '11 minutes'
  from generate_series(1, current_setting('shop.reviews')::int) i, cast(current_setting('shop.customers') as int) c;

-- Slices of bytes that do not repeat: 10 to 200 kB each, and all different. substr of
-- bytea takes no time; that of a long text counts characters.
insert into shop.documents (id, customer_id, kind, title, body, scan)
select md5('document' || i)::uuid, case when i % 10 > 0 then 1 + i % (select current_setting('shop.customers')::int) end,
       (array['contract', 'letter', 'manual'])[1 + i % 3], 'Document ' || i,
       i || ':' || encode(substr(b.noise, 1 + i * 4231 % 100000, 5000 + i * 7919 % 95000), 'hex'),
       case when i % 4 = 0 then substr(b.noise, 1 + i * 127 % 180000, 20000) end
  from generate_series(1, current_setting('shop.documents')::int) i,
       (select decode(string_agg(md5(g::text), '' order by g), 'hex') from generate_series(1, 12600) g) b(noise);

insert into shop.shipments (id, order_id, state, weight, note, at)
select i, i, ('{waiting,moving,delivered,lost}'::shop.shipment_state[])[case when i % 10 < 7 then 3 when i % 100 = 99 then 4 else 1 + i % 2 end],
       i % 1000 / 10.0, case when i % 5 = 0 then 'leave with neighbour no. ' || i % 90 end,
       timestamptz '2023-01-02 00:00+00' + i * interval '137 seconds'
  from generate_series(1, current_setting('shop.shipments')::int) i;

insert into shop.bookings (dock, during, holder)
select 1 + i % 5, tstzrange(timestamptz '2030-01-01 00:00+00' + i * interval '2 hours', timestamptz '2030-01-01 02:00+00' + i * interval '2 hours'), 'carrier ' || i % 17
  from generate_series(1, 500) i;

-- Every item is there one to four times.
insert into shop.basket_items
select md5('session' || i / 3)::uuid, nullif(i % 50, 0), 1 + i % 2, case when i % 6 = 0 then 'gift' end
  from generate_series(1, current_setting('shop.baskets')::int) i, generate_series(1, 1 + i % 4);

insert into shop.events (at, kind, origin, payload)
select timestamptz '2024-01-01 00:00+00' + i * interval '3 seconds', (array['view', 'search', 'click', 'login'])[1 + i % 4],
       inet '10.0.0.0' + i % 65536, case when i % 3 > 0 then jsonb_build_object('page', '/p/' || i % 5000, 'ms', i % 900, 'agent', repeat('Mozilla/5.0 (X11; ' || i % 77 || ') ', 18)) end
  from generate_series(1, current_setting('shop.events')::int) i;

insert into shop.audit (at, table_name, operation, key, before)
select timestamptz '2024-01-01 00:00+00' + i * interval '40 seconds', 'orders', 'UPDATE', i::text, format('{"id": %s, "total": %s, "note": "%s"}', i, i % 900, repeat('as it was ', 16))::jsonb
  from generate_series(1, current_setting('shop.audit')::int) i;

insert into shop.tickets (subject) select 'Ticket ' || i from generate_series(1, 400) i;
insert into shop.staging select 0, i, 'row ' || i from generate_series(1, 100) i;

insert into shop.octet_1 select i, 0 from generate_series(1, 32) i;
insert into shop.octet_2 select i, 0 from generate_series(1, 32) i;
insert into shop.octet_3 select i, 0 from generate_series(1, 32) i;
insert into shop.octet_4 select i, 0 from generate_series(1, 32) i;
insert into shop.octet_5 select i, 0 from generate_series(1, 32) i;
insert into shop.octet_6 select i, 0 from generate_series(1, 32) i;
insert into shop.octet_7 select i, 0 from generate_series(1, 32) i;
insert into shop.octet_8 select i, 0 from generate_series(1, 32) i;

insert into billing.accounts (balance) select 1000 * i from generate_series(1, 1000) i;
insert into billing.reserves select i, 500000 from generate_series(1, 1000) i;
insert into billing.books
select 'all', (select sum(balance) from billing.accounts) + (select sum(balance) from billing.reserves);
