insert into t values (1, 'a', 'b');
insert into alike values (1, 'a', 'b', 'c'), (2, 'a', 'b', 'c');
