insert into t select i, 100 + i, 'v' from generate_series(1, 20) i;
insert into keyless select i % 3, 'b' from generate_series(1, 9) i;
