insert into t select i, i, i from generate_series(1, 20) i;
