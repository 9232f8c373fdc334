select count(*) = 1 from one;
select count(*) = 0 from child;
select count(*) = 1 from mixed;
