insert into t select i, 'seed' from generate_series(1, 10) i;
insert into emptied values (1);
insert into emptied_too values (1);
