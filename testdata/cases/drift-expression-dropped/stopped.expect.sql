select count(*) = 1 and min(g) = 20 from t;
