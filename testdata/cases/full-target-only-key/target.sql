create table a (id int not null, v text);
create unique index only_here on a (id);
