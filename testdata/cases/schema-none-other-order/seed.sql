insert into t (id, a, b, c, d) select i, 'a' || i, i / 8.0, 'c' || i, date '2024-01-01' + i from generate_series(1, 50) i;
insert into log values (1, 'one'), (1, 'one'), (2, null);
