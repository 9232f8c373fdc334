-- 10 has neither default nor hash partitions, and keys on leaves only.
create table shop.shipments (
    id       bigint not null,
    order_id bigint not null,
    state    shop.shipment_state not null,
    weight   numeric,
    note     text,
    at       timestamptz not null
) partition by list (state);
create table shop.shipments_waiting partition of shop.shipments for values in ('waiting');
create table shop.shipments_moving partition of shop.shipments for values in ('moving');
create table shop.shipments_delivered partition of shop.shipments for values in ('delivered');
create table shop.shipments_other partition of shop.shipments for values in ('lost');
