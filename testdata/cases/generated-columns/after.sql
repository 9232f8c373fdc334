insert into price (id, net) values (300, 10);
