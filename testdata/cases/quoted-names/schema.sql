create schema "S.x";
create table "S.x"."Tab'le" (id int primary key, "select" text, "A b" int, "per%cent$1" text, "é😀" text);
create table "a.b" ("""q""" int primary key, "Ω" serial);
create table "user" (id int primary key, "order" text unique);
create table "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk" (id serial primary key, v text);
