-- shop: the database of a mail-order firm, made to hold what real ones hold.
-- Tables come without keys: these are made after the load, which is faster
-- (keys_*.sql, foreign.sql). What only some major versions can do is in files
-- named *.fromNN.sql and *.untilNN.sql.

create schema shop;
create schema billing;
comment on schema shop is 'What is sold, to whom, and where it is';
comment on schema billing is 'Who owes what';

create extension if not exists citext schema public;
create extension if not exists hstore schema public;
create extension if not exists btree_gist schema public;

create type shop.tier as enum ('bronze', 'silver', 'gold');
create type shop.order_status as enum ('new', 'paid', 'packed', 'sent', 'closed', 'cancelled');
create type shop.shipment_state as enum ('waiting', 'moving', 'delivered', 'lost');
create type billing.method as enum ('card', 'transfer', 'cash');
create type shop.postal as (street text, zip text, city text);
create domain shop.amount as numeric(12,2) constraint not_negative check (value >= 0);
create domain shop.country as char(2) check (value ~ '^[A-Z]{2}$');

-- Sequences of the kinds that a cutover has to get right.
create sequence shop.ticket_no as int increment -1 minvalue -1000 maxvalue -1 start -1 cycle cache 5;
create sequence billing.invoice_no start 100003 increment 7 cache 10;

create table shop.countries (
    code shop.country not null,
    name text not null
);

create table shop.customers (
    id          bigint generated always as identity,
    email       public.citext not null,
    name        text not null,
    tier        shop.tier not null default 'bronze',
    country     shop.country not null,
    address     jsonb not null,
    home        shop.postal,
    phones      text[] not null default '{}',
    preferences public.hstore,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz
);

create table shop.categories (
    id        serial,
    parent_id int,                 -- itself
    position  int not null,        -- among its sisters; two are swapped in one statement
    name      text not null
);

create table shop.products (
    id          int generated always as identity,
    legacy_no   int,               -- dropped below: leaves a gap in the column numbers
    sku         varchar(20) not null,
    category_id int not null,
    name        text not null,
    price       shop.amount not null,
    attributes  jsonb,
    sizes       int4range,
    weight      real,
    factor      double precision,
    active      boolean not null default true
);
alter table shop.products drop column legacy_no;

create table shop.price_history (
    product_id int not null,
    valid_from date not null,
    price      numeric(12,2) not null,
    revision   int not null default 0
);
comment on table shop.price_history is 'The nightly batch rewrites a large part of it at once';

create table shop.warehouses (
    id       smallint not null,
    name     text not null,
    location point                 -- a type without =
);

create table shop.stock (
    warehouse_id smallint not null,
    product_id   int not null,
    quantity     int not null,
    counted_at   timestamptz not null
) with (fillfactor = 70);

create table shop.bins (
    warehouse_id smallint not null,
    bin          int not null,
    product_id   int not null,
    quantity     int not null
);

create table shop.orders (
    id          bigserial,
    number      uuid not null,
    customer_id bigint not null,
    status      shop.order_status not null default 'new',
    total       numeric(14,2) not null default 0,
    revision    int not null default 0,
    placed_at   timestamptz not null default now(),
    updated_at  timestamptz
) with (fillfactor = 90);
alter sequence shop.orders_id_seq cache 20;
comment on column shop.orders.total is 'Always the sum of its lines: readers rely on it';

create table shop."Order Lines" (
    order_id   bigint not null,
    "Line No"  smallint not null,
    product_id int not null,
    quantity   int not null,
    price      numeric(12,2) not null,
    "select"   text
);
comment on column shop."Order Lines"."select" is 'What the customer chose; named by someone who liked it so';

create table shop.coupons (
    code    public.citext not null,
    percent smallint not null,
    valid   daterange not null
);

create table shop.redemptions (
    code     public.citext not null,
    order_id bigint not null,
    at       timestamptz not null default now()
);

create table shop.reviews (
    customer_id bigint not null,
    product_id  int not null,
    rating      smallint not null check (rating between 1 and 5),
    body        text,
    at          timestamptz not null default now()
);

-- Long texts that are stored out of line and not compressed, so that an UPDATE
-- of another column does not carry them.
create table shop.documents (
    id          uuid not null,
    customer_id bigint,
    kind        text not null,
    title       text not null,
    revision    int not null default 0,
    body        text,
    scan        bytea,
    updated_at  timestamptz
);
alter table shop.documents alter body set storage external, alter scan set storage external;

create table shop.bookings (
    id     int generated by default as identity,
    dock   smallint not null,
    during tstzrange not null,
    holder text not null
);

-- No key, and rows that are equal in every column.
create table shop.basket_items (
    session    uuid not null,
    product_id int,
    quantity   int not null,
    note       text
);
alter table shop.basket_items replica identity full;

-- No key and no replica identity: its rows are only ever inserted.
create table shop.events (
    at      timestamptz not null default clock_timestamp(),
    kind    text not null,
    origin  inet,
    payload jsonb
);
comment on table shop.events is 'Append-only: nothing updates or deletes here';

create table shop.audit (
    id         bigserial,
    at         timestamptz not null default clock_timestamp(),
    table_name text not null,
    operation  text not null,
    key        text,
    before     jsonb
);
comment on table shop.audit is 'Written by triggers';

create table shop.tickets (
    id      bigint generated by default as identity (increment 3),
    no      int not null default nextval('shop.ticket_no'),
    subject text not null
);

create table shop.staging (
    batch   bigint not null,
    n       int not null,
    payload text
);

-- What the writers prove by. Every transaction of theirs adds one row here.
create table shop.ledger (
    client  int not null,
    n       bigint not null,
    attempt int not null,
    txid    bigint not null default txid_current(),
    kind    text not null,
    at      timestamptz not null default clock_timestamp()
);

-- Rows of one id hold the same number in all eight, at every moment.
create table shop.octet_1 (id int not null, number bigint not null);
create table shop.octet_2 (id int not null, number bigint not null);
create table shop.octet_3 (id int not null, number bigint not null);
create table shop.octet_4 (id int not null, number bigint not null);
create table shop.octet_5 (id int not null, number bigint not null);
create table shop.octet_6 (id int not null, number bigint not null);
create table shop.octet_7 (id int not null, number bigint not null);
create table shop.octet_8 (id int not null, number bigint not null);

-- The sum of all balances of both is what books says, at every moment.
create table billing.accounts (
    id      int generated always as identity,
    balance bigint not null
) with (fillfactor = 70);
create table billing.reserves (
    id      int not null,
    balance bigint not null
) with (fillfactor = 70);
create table billing.books (
    name  text not null,
    total bigint not null
);

create table billing.invoices (
    id       uuid not null,
    number   bigint not null default nextval('billing.invoice_no'),
    order_id bigint not null,
    net      numeric(14,2) not null,
    paid     boolean not null default false,
    issued   date not null,
    lines    jsonb
);

create table billing.payments (
    id         bigint generated by default as identity,
    reference  text not null,
    invoice_id uuid not null,
    amount     numeric(14,2) not null,
    method     billing.method not null,
    paid_at    timestamptz not null default now()
);
