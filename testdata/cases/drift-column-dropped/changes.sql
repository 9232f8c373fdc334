alter table silent drop column gone;
insert into early values (2);
begin;
insert into early values (3);
alter table t drop column gone;
insert into t values (2, 'b');
update t set v = 'c' where id = 1;
commit;
