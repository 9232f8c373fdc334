create table t (id int primary key, j json, p point, x xml, v text);
alter table t replica identity full;
