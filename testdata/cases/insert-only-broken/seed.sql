insert into broken select i, 'seed' from generate_series(1, 100) i;
insert into emptied select generate_series(1, 100);
insert into referred select i, 'seed' from generate_series(1, 100) i;
insert into refers select i, i from generate_series(1, 50) i;
insert into kept select generate_series(1, 100);
insert into ordinary values (1, 'seed');
