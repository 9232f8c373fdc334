alter table t rename column a to c;
alter table t rename column b to a;
alter table t rename column c to b;
