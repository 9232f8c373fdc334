create table t (id int primary key, doc text not null, n int);
alter table t alter doc set storage external;
