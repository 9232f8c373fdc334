insert into broken select i, 'seed' from generate_series(1, 20) i;
insert into kept select i, 'seed' from generate_series(1, 20) i;
