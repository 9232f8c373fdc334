alter table t rename column v to w;
update t set w = 'b' where id = 1;
insert into t values (2, 'c');
