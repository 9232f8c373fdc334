alter table shop.orders add primary key (id), add unique (number);
create index on shop.orders (customer_id);
alter table shop."Order Lines" add primary key (order_id, "Line No");
alter table billing.invoices add primary key (id);
create unique index on billing.invoices (order_id);
create index unpaid on billing.invoices (issued) where not paid;
alter table billing.payments add primary key (id);
create unique index payments_reference on billing.payments (reference);
create index on billing.payments (invoice_id);
-- Updates of a payment are known by its reference.
alter table billing.payments replica identity using index payments_reference;
