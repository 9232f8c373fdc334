select doc like 'walferry 7 %' from t where id = 6;
select doc like 'walferry 6 %' from t where id = 7;
