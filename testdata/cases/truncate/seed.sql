insert into one select generate_series(1, 10);
insert into parent select generate_series(1, 10);
insert into child select i, i from generate_series(1, 10) i;
insert into mixed select i, 'seed' from generate_series(1, 10) i;
