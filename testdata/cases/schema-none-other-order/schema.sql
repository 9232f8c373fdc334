create table t (gone1 int, id int primary key, a varchar(50), gone2 text, b int not null, c timestamptz);
alter table t drop column gone1;
alter table t drop column gone2;
create table whole (a int, gone int, b text, j json);
alter table whole drop column gone;
alter table whole replica identity full;
create table always (k int primary key, n int generated always as identity, v text);
create table same (id int primary key);
