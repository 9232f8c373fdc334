create table price (
    id int primary key,
    gross numeric(10, 2) generated always as (net * 1.19) stored,
    net numeric(10, 2) not null,
    label text generated always as (coalesce(name, 'none') || ' #' || id) stored,
    name text
);
create index price_gross on price (gross);
create unique index price_label on price (label);
create table computed (
    id int primary key,
    twice int generated always as (id * 2) stored,
    dozen text generated always as (repeat('x', 12)) stored
);
create table keyed_by_index (
    a int not null,
    b int generated always as (a % 7) stored,
    c text not null unique,
    d text
);
alter table keyed_by_index replica identity using index keyed_by_index_c_key;
-- FULL with a generated column is refused by an 18 source only.
create table whole (a int, half int generated always as (a / 2) stored, b text);
alter table whole replica identity full;
