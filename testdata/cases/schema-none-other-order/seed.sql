insert into t select i, 'a' || i, i * 10, '2020-01-01 00:00:00+00'::timestamptz + i * interval '1 day' from generate_series(1, 20) i;
insert into whole select i % 3, 'b', '{"k": 1, "k": 2}' from generate_series(1, 9) i;
insert into always (k, v) select i, 'v' from generate_series(1, 9) i;
insert into same values (1);
