select count(*) = 3 from t where a is null or a = 7;
select count(*) = 1 from t where b = 'one of them';
