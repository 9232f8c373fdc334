update "S.x"."Tab'le" set "select" = 'x''\"', "é😀" = null where id = 1;
delete from "S.x"."Tab'le" where "A b" = 2;
update "a.b" set """q""" = 10 where """q""" = 1;
update "user" set "order" = 'from' where id = 1;
truncate "user";
insert into "user" values (3, 'c');
insert into "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk" (v) values ('x');
update "x;drop table y" set "V" = 3, "it's; drop table y;--" = '''); drop table y;--' where id = 1;
delete from "x;drop table y" where v = 20;
insert into "x;drop table y" (id, "V", v) values (3, 7, 70);
insert into y values (2);
update "new
line	tab\r\\" set "a
b" = '$1', "CTID" = 40, "Xmin" = 50, "%s%n" = null where "\" = 1;
update "new
line	tab\r\\" set "\" = 3 where "\" = 2;
