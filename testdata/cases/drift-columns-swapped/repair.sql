alter table t rename column a to d;
alter table t rename column b to a;
alter table t rename column d to b;
alter table alike rename column a to d;
alter table alike rename column b to a;
alter table alike rename column c to b;
alter table alike rename column d to c;
