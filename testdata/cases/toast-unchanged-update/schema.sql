create table t (id int primary key, doc text not null, blob bytea, n int);
alter table t alter doc set storage external, alter blob set storage external;
