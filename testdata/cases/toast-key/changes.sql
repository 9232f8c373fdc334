update t set v = v + 100 where v < 5;
update t set id = repeat('z', 2300) where v = 5;
delete from t where v = 6;
update t set id = 'short' where v = 7;
update t set id = repeat('y', 2400), v = 70 where id = 'short';
