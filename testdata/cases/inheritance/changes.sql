update parent set v = v || ' updated' where id <= 2;
update only parent set v = 'only the parent' where id = 3;
delete from parent where id = 4;
delete from only child where id = 5;
update child set id = id + 100, extra = 7 where id = 1;
insert into grandchild values (9, 'new', 9, null);
truncate only parent;
insert into parent values (1, 'again');
