create table parted (id int, region text, v text, primary key (id, region)) partition by list (region);
create table parted_eu partition of parted for values in ('eu');
create table parted_us partition of parted for values in ('us');
create table single (id int primary key);
create table counted (id serial primary key, v text);
