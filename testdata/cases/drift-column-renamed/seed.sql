insert into t values (1, 'a', 1), (2, 'b', 2);
insert into swapped values (1, 1, 'one');
