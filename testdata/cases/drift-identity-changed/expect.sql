select v = 'full' from t where id = 1;
select v = 'index' from t where id = 2;
select v = 'default again' from t where id = 40;
select v = 'both of them' from t where id = 9;
select count(*) = 19 from t;
select count(*) = 1 from keyless where b = 'one';
