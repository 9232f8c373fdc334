insert into t select repeat(chr(97 + i), 2300), i, 'd' from generate_series(1, 8) i;
