select count(*) = 9 from b where id > 1000;
