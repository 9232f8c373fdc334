create table a (id int primary key deferrable initially deferred, v text);
alter table a replica identity full;
