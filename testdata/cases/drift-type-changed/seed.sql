insert into t values (1, 10, 'a'), (2, 20, 'b');
