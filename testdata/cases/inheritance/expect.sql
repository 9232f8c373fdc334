select count(*) = 2 and count(distinct people) = 2 from only city where people > 100;
select count(*) = 0 from city where id = 3;
select count(*) = 1 from city where name = 'only';
select count(*) = 2 from city where id = 60;
select count(*) = 2 from only log_old;
select count(*) = 1 from only log;
