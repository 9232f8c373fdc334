alter table shop.customers add foreign key (country) references shop.countries;
alter table shop.categories add foreign key (parent_id) references shop.categories deferrable initially deferred;
alter table shop.products add foreign key (category_id) references shop.categories;
alter table shop.price_history add foreign key (product_id) references shop.products on delete cascade;
alter table shop.stock
    add foreign key (warehouse_id) references shop.warehouses,
    add foreign key (product_id) references shop.products on delete cascade;
alter table shop.bins
    add foreign key (warehouse_id, product_id) references shop.stock on delete cascade;
alter table shop.orders add foreign key (customer_id) references shop.customers deferrable;
alter table shop."Order Lines"
    add foreign key (order_id) references shop.orders on delete cascade,
    add foreign key (product_id) references shop.products;
alter table shop.redemptions
    add foreign key (code) references shop.coupons on update cascade on delete cascade,
    add foreign key (order_id) references shop.orders on delete cascade;
alter table shop.reviews
    add foreign key (customer_id) references shop.customers on delete cascade,
    add foreign key (product_id) references shop.products on delete cascade;
alter table shop.documents add foreign key (customer_id) references shop.customers on delete set null;
alter table billing.invoices add foreign key (order_id) references shop.orders on delete cascade;
alter table billing.payments add foreign key (invoice_id) references billing.invoices on delete cascade;
