create table t (a int, b text, j json, f float8);
alter table t replica identity full;
