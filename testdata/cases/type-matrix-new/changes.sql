insert into t values
    (101, 'Infinity', '{}', '{}', '{}', '$', '0', '10:10:', '{1,NULL}', '<a/>', 'Case'),
    (101 + 1, '-Infinity', '{[1,2),[5,)}', '{(,)}', '{(,5),[7,8)}', 'strict $."a b"[*] ? (@.x > 1 && @ like_regex "^q" flag "i")', '18446744073709551615', '10:20:10,14', '{}', 'text <b>&amp;</b><!-- c --> ', 'cASE'),
    (101 + 2, 'NaN', '{[1,1]}', '{["2020-01-01 00:00:00+00",infinity]}', null, 'lax $.**{2 to last}', '4294967296', '1:1:', '[0:0]={9}', '<?xml version="1.0" encoding="UTF-8"?><ä att="&quot;">é</ä>', ''),
    (101 + 3, null, null, null, null, null, null, null, null, null, null);
insert into whole values ('<a/>', '$', 'Case', '{[1,2)}'), ('<a/>', '$', 'cASE', '{[1,2)}'), ('<a ></a>', '$', 'Case', '{[1,2)}'), (null, null, null, null);
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
