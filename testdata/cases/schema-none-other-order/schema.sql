create table t (id int primary key, gone int, a text, b numeric(10, 2), c varchar(10), d date);
alter table t drop column gone;
create table log (n int, what text);
alter table log replica identity full;
