insert into a select 'c' || i, i % 3, 'v' from generate_series(1, 60) i;
insert into b select i, 'n' || i, 'v' from generate_series(1, 60) i;
