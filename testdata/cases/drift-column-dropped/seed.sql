insert into t values (1, 'old', 'a');
insert into silent values (1, 'old', 'a');
insert into early values (1);
