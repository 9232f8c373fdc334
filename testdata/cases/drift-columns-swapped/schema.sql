create table t (id int primary key, a text, b varchar(20));
create table alike (id int primary key, gone int, a text, b text, c text);
alter table alike drop column gone;
