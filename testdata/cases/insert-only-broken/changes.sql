insert into broken values (101, 'new'), (101, 'new');
update broken set b = 'updated' where a <= 10;
delete from broken where a between 20 and 30;
insert into broken values (102, 'after the update');
delete from emptied;
update referred set b = 'updated' where a = 60;
delete from referred where a = 61;
insert into kept values (101), (101);
update ordinary set v = 'updated';
