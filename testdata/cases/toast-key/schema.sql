create table t (id text primary key, v int, doc text);
alter table t alter id set storage external;
