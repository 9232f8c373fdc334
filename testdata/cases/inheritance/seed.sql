insert into city select i, 'city', i from generate_series(1, 10) i;
insert into capital select i, 'capital', i, 's' from generate_series(1, 10) i;
insert into port select i % 3, 'port', i % 3, 7 from generate_series(1, 12) i;
insert into port_capital select i, 'port capital', i, 's', i from generate_series(1, 10) i;
insert into place select generate_series(1, 5);
insert into village select i, true, 'village', i from generate_series(1, 10) i;
insert into log values (1, 'new');
insert into log_old values (1, 'old'), (2, 'old');
