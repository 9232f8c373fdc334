update t set id = id + 100 where id < 5;
begin;
update t set id = -1 where id = 6;
update t set id = 6, n = 1 where id = 7;
update t set id = 7, n = 2 where id = -1;
commit;
