insert into p select i, date '2024-01-01' + i, 'v' from generate_series(1, 90) i;
