select count(*) = 1 and bool_and(a = 'a' and b = 'b') from t;
select count(*) = 2 and bool_and(a = 'a' and b = 'b' and c = 'c') from alike;
