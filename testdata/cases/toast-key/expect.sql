select count(*) = 7 from t;
