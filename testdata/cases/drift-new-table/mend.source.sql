drop table added;
