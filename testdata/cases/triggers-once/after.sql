insert into child values (200, 20);
