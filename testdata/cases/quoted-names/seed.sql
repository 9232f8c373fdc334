insert into "S.x"."Tab'le" select i, 'v', i, 'p', '😀' from generate_series(1, 5) i;
insert into "a.b" values (1), (2);
insert into "user" values (1, 'a'), (2, 'b');
insert into y values (1);
insert into "x;drop table y" values (1, 'a', 1, 10), (2, 'b', 2, 20);
insert into "new
line	tab\r\\" values (1, 'a', 'b', 1, 2, 3, 4, 5, 6), (2, null, '', 1, 2, 3, 4, 5, 6);
