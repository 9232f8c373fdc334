select count(distinct place) = 20 from t;
