select array_agg(id order by id) = array[101, 102] from parted;
select array_agg(id order by id) = array[101, 102] from single;
select array_agg(id order by id) = array[11] from counted;
