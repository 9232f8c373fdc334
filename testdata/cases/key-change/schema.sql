create table plain (id int primary key, v text not null);
create table composite (a int, b text, c date, v text, primary key (c, a));
