select count(*) = 11 from t;
select v = 'prepared' from t where id = 1;
select v = 'rolled back before' from t where id = 2;
select v = 'after' from t where id = 11;
select count(*) = 2 from log;
