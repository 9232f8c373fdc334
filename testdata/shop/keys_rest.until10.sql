alter table shop.shipments_waiting add primary key (id);
alter table shop.shipments_moving add primary key (id);
alter table shop.shipments_delivered add primary key (id);
alter table shop.shipments_other add primary key (id);
