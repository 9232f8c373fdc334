select count(*) = 10 from broken where b = 'updated';
select count(*) = 92 from broken;
select count(*) = 0 from emptied;
select count(*) = 99 from referred;
select count(*) = 50 from refers;
select count(*) = 102 from kept;
