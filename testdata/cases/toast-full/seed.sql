insert into keyed select i, repeat('walferry ' || i || ' ', 1000), 0 from generate_series(1, 10) i;
insert into keyless select i / 2, repeat('walferry ' || i / 2 || ' ', 1000), 0 from generate_series(1, 10) i;
