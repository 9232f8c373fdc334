alter table t alter column n type bigint using n * 100;
