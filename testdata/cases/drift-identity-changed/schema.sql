create table t (id int primary key, other int not null unique, v text);
create table keyless (a int, b text);
alter table keyless replica identity full;
