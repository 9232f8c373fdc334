create table one (id int primary key);
create table parent (id serial primary key);
create table child (id int primary key, parent int references parent);
create table mixed (id int primary key, v text);
