alter table shop.shipments add foreign key (order_id) references shop.orders on delete cascade;
