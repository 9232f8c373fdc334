insert into plain select i, 'v' || i from generate_series(1, 100) i;
insert into composite select i, 'b', date '2024-01-01' + i, 'v' from generate_series(1, 50) i;
