alter table t drop column gone;
insert into t values (2, 'b');
update t set v = 'c' where id = 1;
