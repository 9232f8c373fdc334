insert into t values (2, 'b');
alter table t rename to renamed;
begin;
insert into other values (1);
insert into renamed values (3, 'c');
update renamed set v = 'x' where id = 1;
commit;
