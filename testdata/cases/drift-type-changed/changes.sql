alter table silent alter column n type numeric(10, 1);
alter table t alter column n type numeric(10, 1);
alter table label alter column v type int using v::int;
begin;
insert into wide values (2);
update t set v = 'c' where id = 2;
commit;
insert into label values (3, 9);
