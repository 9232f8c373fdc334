alter table t add column extra text;
insert into t values (2, 'b', 'extra value');
