update t set n = n + 1;
update t set n = n + 1, doc = repeat('other ', 2000) where id = 3;
update t set blob = null where id = 4;
begin;
insert into t values (100, repeat('in one transaction ', 1000), null, 0);
update t set n = 7 where id = 100;
update t set n = 8, blob = decode(repeat('5c', 5000), 'hex') where id = 100;
commit;
