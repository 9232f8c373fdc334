create table broken (a int, b text);
create table emptied (a int);
create table referred (a int, b text);
create unique index referred_a on referred (a);
create table refers (id int primary key, a int references referred (a) on delete cascade);
create table kept (a int);
create table ordinary (id int primary key, v text);
