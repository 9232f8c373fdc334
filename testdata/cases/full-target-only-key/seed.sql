insert into a select g, 'old' from generate_series(1, 20) g;
