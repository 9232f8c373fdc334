create table t (id int primary key, gone text, v text);
create table silent (id int primary key, gone text default 'd', v text);
create table early (id int primary key);
