begin;
insert into a select g, 'new' from generate_series(1, 10) g;
delete from a where v = 'old' and id <= 10;
update a set v = 'newer' where id <= 5;
commit;
update a set id = 21 - id;
