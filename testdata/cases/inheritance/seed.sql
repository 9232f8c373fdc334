insert into parent select i, 'parent' from generate_series(1, 5) i;
insert into child select i, 'child', i from generate_series(1, 5) i;
insert into grandchild select i, 'grandchild', i, 'more' from generate_series(1, 5) i;
