select count(*) = 1 and bool_and(a = 'a' and b = 'b') from t;
