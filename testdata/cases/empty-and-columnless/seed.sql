insert into nothing default values;
insert into nothing default values;
