insert into t values (1, 1.25, 'a'), (2, 2.75, 'b');
insert into label values (1, '07'), (2, '8');
insert into silent values (1, 1.25);
insert into wide values (1);
