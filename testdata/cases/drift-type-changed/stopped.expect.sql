select count(*) = 2 and sum(n) = 30 and bool_and(v <> 'c') from t;
