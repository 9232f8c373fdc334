insert into parent select i, 'v' from generate_series(1, 10) i;
insert into child select i, i from generate_series(1, 10) i;
insert into grandchild select i, i from generate_series(1, 10) i;
