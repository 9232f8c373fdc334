insert into t select i, 'v' || i, i from generate_series(1, 200) i;
