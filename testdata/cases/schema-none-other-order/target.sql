create table t (
    c timestamptz, extra text not null default 'by default', b bigint not null, dropped text,
    id int primary key, a varchar(500), twice bigint generated always as (b * 2) stored, plain int
);
alter table t drop column dropped;
create table whole (dropped int, j json, extra int default 7, b text, a int);
alter table whole drop column dropped;
create table always (extra text default 'kept', v text, n int generated always as identity, k int primary key);
create table same (id int primary key);
