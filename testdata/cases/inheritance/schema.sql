create table city (id int primary key, name text, people int);
create table capital (state text, primary key (id)) inherits (city);
create table port (ships int) inherits (city);
alter table port replica identity full;
create table place (height int);
create table port_capital (primary key (id)) inherits (capital, place);
alter table place add primary key (height);
-- Its columns are in another order than those of the parent.
create table village (people int, pond boolean, name text, id int primary key);
alter table village inherit city;
create table log (id int primary key, v text);
create table log_old () inherits (log);
alter table log_old add primary key (id);
