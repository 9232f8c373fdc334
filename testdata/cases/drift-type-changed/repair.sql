alter table t alter column n type numeric(10, 1);
alter table label alter column v type int using v::int;
