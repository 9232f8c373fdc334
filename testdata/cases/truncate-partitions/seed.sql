insert into parted select i, case when i % 2 = 0 then 'eu' else 'us' end, 'seed' from generate_series(1, 40) i;
insert into single select generate_series(1, 10);
insert into counted (v) select 'seed' from generate_series(1, 10);
