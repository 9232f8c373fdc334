insert into t (id, a, name) select i, i, 'name ' || i from generate_series(1, 50) i;
insert into lone (id) values (1), (2);
insert into only_generated default values;
