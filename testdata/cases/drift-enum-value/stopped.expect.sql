select count(*) = 1 from t;
