create schema "S.x";
create table "S.x"."Tab'le" (id int primary key, "select" text, "A b" int, "per%cent$1" text, "é😀" text);
create table "a.b" ("""q""" int primary key, "Ω" serial);
create table "user" (id int primary key, "order" text unique);
create table "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk" (id serial primary key, v text);
create table y (id int primary key);
create table "x;drop table y" (id serial primary key, "it's; drop table y;--" text check ("it's; drop table y;--" <> 'no'), "V" int, v int unique);
create table "new
line	tab\r\\" ("\" int primary key, "a
b" text, " " text, "%s%n" int, "{{.}}" int, "$1" int, "CTID" int, "Xmin" int, "1st" int default 1);
create index "x\'y
z" on "new
line	tab\r\\" ("a
b");
