select gross = 0.01 and label = 'cent #100' from price where id = 100;
select label = 'p7 #200' from price where id = 200;
select twice = 202 from computed where id = 101;
select count(*) = 4 from whole where a = 11 and half = 5;
