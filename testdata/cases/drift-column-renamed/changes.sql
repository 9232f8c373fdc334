insert into t values (3, 'before', 3);
alter table t rename column old_name to new_name;
begin;
insert into swapped values (2, 2, 'two');
insert into t values (4, 'after', 4);
update t set v = 10 where id = 1;
delete from t where id = 2;
commit;
