select count(*) = 1 and min(v) = 'a' from t;
