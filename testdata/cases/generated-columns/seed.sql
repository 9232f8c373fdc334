insert into price (id, net, name) select i, i * 1.5, nullif('p' || i, 'p3') from generate_series(1, 20) i;
insert into computed (id) select generate_series(1, 20);
insert into keyed_by_index (a, c, d) select i, 'c' || i, 'd' from generate_series(1, 20) i;
insert into whole (a, b) select i % 3, 'b' from generate_series(1, 12) i;
