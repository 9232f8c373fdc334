create table t (id int primary key, old_name text, v int);
create table swapped (id int primary key, a int, b text);
