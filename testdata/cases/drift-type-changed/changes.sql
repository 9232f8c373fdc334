alter table t alter column n type bigint using n * 100;
update t set v = 'c' where id = 1;
