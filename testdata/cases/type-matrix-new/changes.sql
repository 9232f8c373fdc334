-- The rows of seed.sql again, through the stream.
insert into t select id + 100, n, m, tm, s, jp, x8, ps, sa, x, ic from t;
insert into whole select * from whole;
update t a set n = b.n, m = b.m, tm = b.tm, s = b.s, jp = b.jp, x8 = b.x8, ps = b.ps, sa = b.sa, x = b.x, ic = b.ic
  from t b where a.id <= 100 and b.id = 101 + a.id % 4;
delete from t where id = 102;
update keyed set v = v + 10;
update keyed set k = 'ABC' where k = 'abc';
delete from keyed where k = 'DEF';
delete from whole where ctid = (select max(ctid) from whole where x::text = '<a/>' and ic::text = 'cASE' collate "C");
update whole set x = '<changed/>' where ctid = (select max(ctid) from whole where x::text = '<a ></a>');
update whole set m = '{[1,2),[9,10)}' where ctid = (select min(ctid) from whole where ic::text = 'Case' collate "C" and x::text = '<a/>');
delete from whole where ctid = (select min(ctid) from whole where x is null);
