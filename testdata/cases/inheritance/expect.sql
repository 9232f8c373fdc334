select count(*) = 1 and min(v) = 'again' from only parent;
select array_agg(id order by id) = array[2, 3, 101] from only child;
select array_agg(id order by id) = array[2, 3, 5, 9, 101] from only grandchild;
select count(*) = 2 and bool_and(v like '% updated') from parent where id = 101;
