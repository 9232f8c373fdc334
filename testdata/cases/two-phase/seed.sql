insert into t select i, 'seed' from generate_series(1, 10) i;
