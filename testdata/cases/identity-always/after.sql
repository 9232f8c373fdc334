insert into t (v) values ('on the target');
