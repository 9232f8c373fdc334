begin;
alter table t rename column a to c;
alter table t rename column b to a;
alter table t rename column c to b;
commit;
insert into t (id, a, b) values (2, 'new a', 'new b');
update t set a = 'x' where id = 1;
