create table p (id int, day date, v text, primary key (id, day)) partition by range (day);
create table p1 partition of p for values from ('2024-01-01') to ('2024-02-01');
create table p2 (v text, gone int, day date not null, id int not null, primary key (id, day));
alter table p2 drop column gone;
alter table p attach partition p2 for values from ('2024-02-01') to ('2024-03-01');
create table rest partition of p default;
