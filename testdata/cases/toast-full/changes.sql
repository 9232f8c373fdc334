update keyed set n = 1 where id < 5;
update keyed set id = 100 where id = 6;
delete from keyed where id = 7;
update keyless set n = 1 where ctid = (select min(ctid) from keyless where id = 2);
delete from keyless where ctid = (select min(ctid) from keyless where id = 3);
update keyless set doc = null where id = 4;
