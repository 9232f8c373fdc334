insert into t values (1001, 'new', 1), (1002, null, null);
update t set v = 'changed' where id between 10 and 20;
update t set v = null where id = 21;
delete from t where id between 30 and 40;
begin;
insert into t values (2000, 'here and gone', 0);
update t set v = 'still here' where id = 2000;
delete from t where id = 2000;
commit;
