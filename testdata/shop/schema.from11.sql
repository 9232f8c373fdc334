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
create table shop.shipments_delivered partition of shop.shipments for values in ('delivered') partition by hash (id);
create table shop.shipments_delivered_0 partition of shop.shipments_delivered for values with (modulus 2, remainder 0);
-- Made apart and attached: its columns have another order than its parent's.
create table shop.shipments_delivered_1 (
    at       timestamptz not null,
    note     text,
    id       bigint not null,
    order_id bigint not null,
    state    shop.shipment_state not null,
    weight   numeric
);
alter table shop.shipments_delivered attach partition shop.shipments_delivered_1 for values with (modulus 2, remainder 1);
create table shop.shipments_other partition of shop.shipments default;
