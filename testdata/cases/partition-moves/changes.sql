update p set day = day + 31 where id < 10;
update p set day = '2030-01-01' where id = 70;
update p set v = 'x' where day > '2024-02-20';
delete from p where id = 40;
truncate p1;
insert into p values (1000, '2024-01-05', 'again');
