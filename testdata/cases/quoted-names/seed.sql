insert into "S.x"."Tab'le" select i, 'v', i, 'p', '😀' from generate_series(1, 5) i;
insert into "a.b" values (1), (2);
insert into "user" values (1, 'a'), (2, 'b');
