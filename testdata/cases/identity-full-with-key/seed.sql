insert into t select i, '{"a": 1, "a":  2}', point(i, i), '<a/>', 'v' from generate_series(1, 50) i;
insert into t values (100, null, null, null, null);
