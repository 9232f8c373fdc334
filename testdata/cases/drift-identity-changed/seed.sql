insert into t select i, -i, 'v' || i from generate_series(1, 20) i;
