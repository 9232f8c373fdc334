insert into t (v) values ('new');
insert into t overriding system value values (500, 'forced');
update t set v = 'x' where id < 5;
update t set id = default where id = 6;
update other set n = default where k = 3;
