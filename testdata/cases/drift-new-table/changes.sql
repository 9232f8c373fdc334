create table added (id int primary key);
insert into added values (1);
begin;
insert into t values (2);
insert into added values (2);
commit;
