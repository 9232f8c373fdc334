select count(*) = 51 and bool_and(double is not distinct from a * 2) and bool_and(shout is not distinct from upper(name)) from t;
select array_agg(id order by id) = array[3, 4] and bool_and(kind = 'lone') from lone;
select count(*) = 2 and bool_and(g = 42) from only_generated;
