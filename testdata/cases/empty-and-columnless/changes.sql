insert into empty values (1, 'x');
delete from empty;
insert into nothing default values;
