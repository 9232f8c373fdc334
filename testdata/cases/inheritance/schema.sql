create table parent (id int primary key, v text);
create table child (extra int, primary key (id)) inherits (parent);
create table grandchild (more text, primary key (id)) inherits (child);
