insert into t values (51, null, 1.5, 'new', '2024-02-29');
update t set a = null, c = 'changed' where id = 2;
update t set id = 103 where id = 3;
delete from t where id = 4;
insert into log values (3, 'three');
update log set what = 'two' where n = 2;
delete from log where ctid = (select min(ctid) from log where n = 1);
