create table t (id int primary key, v text);
create table log (n serial primary key, what text);
