select count(*) = 50 from t;
select count(*) = 3 and count(what) = 3 from log;
