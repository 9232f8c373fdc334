select count(*) = 1 and bool_and(gone = 'old' and v = 'a') from t;
select count(*) = 2 from early;
