select count(*) = 2 and max(v) = 'b' from t;
select count(*) = 0 from other;
