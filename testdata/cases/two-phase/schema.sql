create table t (id int primary key, v text);
create table seen (n serial primary key, what text);
create table emptied (id int primary key);
create table emptied_too (id int primary key);
