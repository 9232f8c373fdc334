insert into t select i, repeat('walferry ' || i || ' ', 1000), 0 from generate_series(1, 10) i;
