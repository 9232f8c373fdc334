create table t (id int generated always as identity primary key, v text);
create table other (k int primary key, n int generated always as identity);
