create table keyed (id int primary key, doc text, n int);
create table keyless (id int, doc text, n int);
alter table keyed replica identity full;
alter table keyless replica identity full;
alter table keyed alter doc set storage external;
alter table keyless alter doc set storage external;
