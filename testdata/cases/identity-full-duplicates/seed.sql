insert into t select 1, 'same', '{"k":1}', 'NaN' from generate_series(1, 5);
insert into t select null, null, null, null from generate_series(1, 4);
insert into t select 2, '', '{}', '-0' from generate_series(1, 3);
