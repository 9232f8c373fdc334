alter table shop.shipments add primary key (id, state);
create index on shop.shipments (order_id);
