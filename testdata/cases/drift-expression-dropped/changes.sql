alter table t alter column g drop expression;
update t set g = 7 where id = 1;
insert into t values (2, 20, 8);
