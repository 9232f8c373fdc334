select count(*) = 1 from audit where id = (select max(id) from audit) and what = 'INSERT child';
