update t set place = 3 - place where place in (1, 2);
update t set place = 21 - place;
begin;
update t set late = 2 where id = 1;
update t set late = 1 where id = 2;
commit;
