select count(*) = 2 and sum(n) = 4.00 and bool_and(v <> 'c') from t;
select count(*) = 1 from wide;
