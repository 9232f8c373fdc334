create table a (code text not null, part int not null, v text);
create unique index a_identity on a (part, code);
alter table a replica identity using index a_identity;
create table b (id int primary key, name text not null unique, v text);
alter table b replica identity using index b_name_key;
