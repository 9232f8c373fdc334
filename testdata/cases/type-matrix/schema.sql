create type mood as enum ('sad', 'it''s "ok"', 'back\slash', '', 'with, comma', 'Ünï');
create type pair as (n int, t text);
create type nest as (p pair, ps pair[], m mood);
create type floats as range (subtype = float8, subtype_diff = float8mi);
create domain small as int check (value < 1000);
create domain words as text[] check (array_length(value, 1) > 0);
create domain must as text not null default 'x';
create domain deep as small;

create table numbers (
    id int primary key, i2 int2, i4 int4, i8 int8, n numeric, n2 numeric(10, 2), f4 float4, f8 float8,
    m money, o oid, b boolean
);
create table texts (id int primary key, t text, v varchar(10), c char(5), one "char", na name);
create table bits (id int primary key, b bytea, fixed bit(5), varying bit varying);
create table times (
    id int primary key, d date, t time, t3 time(3), tz timetz, ts timestamp, tstz timestamptz, i interval, im interval year to month
);
create table nets (id int primary key, i inet, c cidr, m macaddr, m8 macaddr8, u uuid);
create table shapes (id int primary key, p point, l line, s lseg, b box, pa path, po polygon, c circle);
create table documents (id int primary key, j json, jb jsonb, tv tsvector, tq tsquery);
create table arrays (
    id int primary key, i int[], t text[], n numeric(6, 2)[], b bytea[], d timestamptz[], m mood[], p pair[], j json[], x box[]
);
create table ranges (
    id int primary key, i int4range, l int8range, n numrange, t tsrange, tz tstzrange, d daterange, f floats, a int4range[]
);
create table own (id int primary key, m mood, p pair, n nest, s small, w words, mu must, de deep);
create table system (
    id int primary key, c regclass, t regtype, p regprocedure, o regoper, x xid, ci cid, ti tid, l pg_lsn, s txid_snapshot,
    iv int2vector, ov oidvector
);
-- Rows without a key, of types without an equality too.
create table whole (j json, p point, l line, b box, po polygon, f float8, n numeric, c char(5), pr pair, ts json[], m mood, x "char");
alter table whole replica identity full;
-- Keys of types that are not compared as numbers are.
create table keyed_time (k timestamptz primary key, v int);
create table keyed_float (k float8 primary key, v int);
create table keyed_numeric (k numeric primary key, v int);
create table keyed_bytes (k bytea primary key, v int);
create table keyed_many (a mood, b pair, c int[], d deep, e char(3), f int4range, v int, primary key (a, b, c, d, e, f));
create table keyed_name (k name, c "char", v int, primary key (k, c));
