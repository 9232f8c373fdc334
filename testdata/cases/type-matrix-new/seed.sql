insert into t values
    (1, 'Infinity', '{}', '{}', '{}', '$', '0', '10:10:', '{1,NULL}', '<a/>', 'Case'),
    (1 + 1, '-Infinity', '{[1,2),[5,)}', '{(,)}', '{(,5),[7,8)}', 'strict $."a b"[*] ? (@.x > 1 && @ like_regex "^q" flag "i")', '18446744073709551615', '10:20:10,14', '{}', 'text <b>&amp;</b><!-- c --> ', 'cASE'),
    (1 + 2, 'NaN', '{[1,1]}', '{["2020-01-01 00:00:00+00",infinity]}', null, 'lax $.**{2 to last}', '4294967296', '1:1:', '[0:0]={9}', '<?xml version="1.0" encoding="UTF-8"?><ä att="&quot;">é</ä>', ''),
    (1 + 3, null, null, null, null, null, null, null, null, null, null);
insert into whole values ('<a/>', '$', 'Case', '{[1,2)}'), ('<a/>', '$', 'cASE', '{[1,2)}'), ('<a ></a>', '$', 'Case', '{[1,2)}'), (null, null, null, null);
insert into keyed values ('Abc', 1), ('def', 2), ('', 3);
