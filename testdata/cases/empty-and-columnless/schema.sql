create table empty (id int primary key, v text);
create table nothing ();
alter table nothing replica identity full;
