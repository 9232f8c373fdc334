insert into broken values (21, 'inserted');
update broken set v = 'updated' where n <= 5;
delete from broken where n = 10;
insert into kept values (21, 'inserted'), (21, 'inserted');
