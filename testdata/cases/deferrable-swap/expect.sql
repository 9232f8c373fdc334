select count(distinct place) = 20 and count(distinct late) = 20 from t;
