alter table shop."Order Lines" add amount numeric generated always as (quantity * price) stored;
alter table billing.invoices add gross numeric(14,2) generated always as (round(net * 1.19, 2)) stored;
