select count(*) = 0 from t where length(doc) < 5000;
select length(doc) = 19000 and n = 8 and length(blob) = 5000 from t where id = 100;
