create collation ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create domain several as int4multirange;
create domain small as int check (value < 1000);
create table t (
    id int primary key, n numeric, m int4multirange, tm tstzmultirange, s several, jp jsonpath, x8 xid8, ps pg_snapshot,
    sa small[], x xml, ic text collate ignore_case
);
create table keyed (k text collate ignore_case primary key, v int);
create table whole (x xml, jp jsonpath, ic text collate ignore_case, m int4multirange);
alter table whole replica identity full;
