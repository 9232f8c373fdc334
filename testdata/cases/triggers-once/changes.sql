update parent set v = 'x' where id < 4;
update parent set id = 100 where id = 5;
delete from parent where id in (6, 7);
insert into parent values (20, 'new');
