select count(*) = 1 from t where v = 'on the target' and id = 23;
