create table t (id int primary key, n numeric(10, 2), v text);
create table label (id int primary key, v text);
create table silent (id int primary key, n numeric(10, 2));
create table wide (id int primary key);
