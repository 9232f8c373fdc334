alter table silent alter column n type numeric(10, 1);
