insert into t select i, repeat('walferry ' || i || ' ', 1000), decode(repeat('00ff27', 3000), 'hex'), 0 from generate_series(1, 30) i;
