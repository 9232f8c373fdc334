select count(*) = 3 from t;
select count(*) = 1 from swapped;
