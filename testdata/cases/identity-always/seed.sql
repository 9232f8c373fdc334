insert into t (v) select 'v' from generate_series(1, 20);
insert into other (k) select generate_series(1, 20);
