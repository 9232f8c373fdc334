create table t (id int primary key, a int, double int generated always as (a * 2) stored, name text, shout text generated always as (upper(name)) stored);
create index on t (double);
create unique index on t (shout);
create table lone (id int primary key, kind text generated always as ('lone') stored);
create table only_generated (g int generated always as (42) stored);
alter table only_generated replica identity full;
