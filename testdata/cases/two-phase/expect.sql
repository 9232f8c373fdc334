select v = 'prepared, then changed' from t where id = 1;
select v = 'after the rollback' from t where id = 3;
select v = 'third, then changed' from t where id = 4;
select count(*) = 10 and bool_and(id not in (2, 12, 13)) from t;
select array_agg(what order by n) = '{first prepared,between}' from seen;
select count(*) = 1 from emptied;
select count(*) = 0 from emptied_too;
