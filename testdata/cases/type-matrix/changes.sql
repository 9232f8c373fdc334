-- The rows of seed.sql again, through the stream.
insert into numbers select id + 100, i2, i4, i8, n, n2, f4, f8, m, o, b from numbers;
insert into texts select id + 100, t, v, c, one, na from texts;
insert into bits select id + 100, b, fixed, varying from bits;
insert into times select id + 100, d, t, t3, tz, ts, tstz, i, im from times;
insert into nets select id + 100, i, c, m, m8, u from nets;
insert into shapes select id + 100, p, l, s, b, pa, po, c from shapes;
insert into documents select id + 100, j, jb, tv, tq from documents;
insert into arrays select id + 100, i, t, n, b, d, m, p, j, x from arrays;
insert into ranges select id + 100, i, l, n, t, tz, d, f, a from ranges;
insert into own select id + 100, m, p, n, s, w, mu, de from own;
insert into system select id + 100, c, t, p, o, x, ci, ti, l, s, iv, ov from system;
insert into whole select * from whole;

-- Every column gets the value of the row after it; each statement writes all rows.
update numbers a set i2 = b.i2, i4 = b.i4, i8 = b.i8, n = b.n, n2 = b.n2, f4 = b.f4, f8 = b.f8, m = b.m, o = b.o, b = b.b from numbers b where a.id <= 100 and b.id = 101 + a.id % 8;
delete from numbers where id = 102;
update texts a set t = b.t, v = b.v, c = b.c, one = b.one, na = b.na from texts b where a.id <= 100 and b.id = 101 + a.id % 8;
delete from texts where id = 102;
update bits a set b = b.b, fixed = b.fixed, varying = b.varying from bits b where a.id <= 100 and b.id = 101 + a.id % 5;
delete from bits where id = 102;
update times a set d = b.d, t = b.t, t3 = b.t3, tz = b.tz, ts = b.ts, tstz = b.tstz, i = b.i, im = b.im from times b where a.id <= 100 and b.id = 101 + a.id % 7;
delete from times where id = 102;
update nets a set i = b.i, c = b.c, m = b.m, m8 = b.m8, u = b.u from nets b where a.id <= 100 and b.id = 101 + a.id % 4;
delete from nets where id = 102;
update shapes a set p = b.p, l = b.l, s = b.s, b = b.b, pa = b.pa, po = b.po, c = b.c from shapes b where a.id <= 100 and b.id = 101 + a.id % 4;
delete from shapes where id = 102;
update documents a set j = b.j, jb = b.jb, tv = b.tv, tq = b.tq from documents b where a.id <= 100 and b.id = 101 + a.id % 6;
delete from documents where id = 102;
update arrays a set i = b.i, t = b.t, n = b.n, b = b.b, d = b.d, m = b.m, p = b.p, j = b.j, x = b.x from arrays b where a.id <= 100 and b.id = 101 + a.id % 4;
delete from arrays where id = 102;
update ranges a set i = b.i, l = b.l, n = b.n, t = b.t, tz = b.tz, d = b.d, f = b.f, a = b.a from ranges b where a.id <= 100 and b.id = 101 + a.id % 5;
delete from ranges where id = 102;
update own a set m = b.m, p = b.p, n = b.n, s = b.s, w = b.w, mu = b.mu, de = b.de from own b where a.id <= 100 and b.id = 101 + a.id % 5;
delete from own where id = 102;
update system a set c = b.c, t = b.t, p = b.p, o = b.o, x = b.x, ci = b.ci, ti = b.ti, l = b.l, s = b.s, iv = b.iv, ov = b.ov from system b where a.id <= 100 and b.id = 101 + a.id % 4;
delete from system where id = 102;

-- One of those that are equal, or nearly.
update whole set m = 'with, comma' where ctid = (select min(ctid) from whole where n::text = '1.00' and pr::text = '(1,"")');
delete from whole where ctid = (select max(ctid) from whole where n::text = '1.0');
delete from whole where ctid = (select max(ctid) from whole where pr::text = '(,)');
update whole set f = 5 where ctid = (select max(ctid) from whole where p::text = '(0,0)');
update whole set j = '{"new": 1}', p = '(3,3)', pr = null where ctid = (select max(ctid) from whole where p::text = '(-0,0)');
update whole set x = 'y' where ctid = (select max(ctid) from whole where p::text ~ 'NaN');
delete from whole where ctid = (select min(ctid) from whole where ts::text ~ '{ }');
update whole set c = 'was' where ctid = (select min(ctid) from whole where j is null);
delete from whole where ctid = (select max(ctid) from whole where j is null);

update keyed_time set v = v + 10;
update keyed_time set k = '-infinity' where k = '-infinity';
update keyed_time set k = '294276-01-01 00:00:00+00' where k = 'infinity';
delete from keyed_time where v = 13;
update keyed_float set v = v + 10;
update keyed_float set k = '0' where k = '-0';
delete from keyed_float where k = 'NaN';
delete from keyed_float where v = 15;
update keyed_numeric set v = v + 10;
update keyed_numeric set k = 1.00 where k = 1.0;
delete from keyed_numeric where k = 'NaN';
update keyed_bytes set v = v + 10;
update keyed_bytes set k = '\xffff' where k = '';
delete from keyed_bytes where k = '\x00';
update keyed_many set v = v + 10;
update keyed_many set e = 'b' where e = 'a';
delete from keyed_many where v = 13;
update keyed_name set v = v + 10;
delete from keyed_name where k = '';
