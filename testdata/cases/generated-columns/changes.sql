insert into t (id, a, name) values (100, 7, 'new'), (101, null, null);
update t set a = a + 1000 where id <= 10;
update t set name = 'other ' || id, id = id + 1000 where id > 45 and id <= 50;
delete from t where id = 20;
insert into lone (id) values (3);
update lone set id = 4 where id = 1;
delete from lone where id = 2;
insert into only_generated default values;
