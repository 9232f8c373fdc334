create table a (id int not null, v text);
alter table a replica identity full;
