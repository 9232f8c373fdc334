select count(*) = 0 from t where v <> 'kept';
select count(*) = 204 from t;
