update t set v = 'changed' where id < 10;
update t set j = '[1 ,2]', p = '(0.1,-0)' where id = 11;
update t set v = '' where id = 100;
update t set id = 200 where id = 12;
delete from t where id in (13, 14, 100);
