update "S.x"."Tab'le" set "select" = 'x''\"', "é😀" = null where id = 1;
delete from "S.x"."Tab'le" where "A b" = 2;
update "a.b" set """q""" = 10 where """q""" = 1;
update "user" set "order" = 'from' where id = 1;
truncate "user";
insert into "user" values (3, 'c');
insert into "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk" (v) values ('x');
