begin;
update a set v = 'older' where id > 10;
delete from a where id > 15;
insert into a select g, 'fresh' from generate_series(16, 20) g;
commit;
begin;
insert into a select g, 'new' from generate_series(1, 10) g;
delete from a where v = 'old' and id <= 10;
commit;
