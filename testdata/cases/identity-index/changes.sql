update a set v = 'changed' where part = 1;
update a set code = code || '!' where code = 'c5';
delete from a where part = 2;
update b set id = id + 1000 where id < 10;
update b set name = name || '!' where id = 20;
update b set v = 'x' where id = 21;
delete from b where id = 22;
