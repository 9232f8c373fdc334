create function shop.touch() returns trigger language plpgsql as $$
begin
    new.updated_at := clock_timestamp();
    return new;
end $$;
create trigger touch before update on shop.customers for each row execute procedure shop.touch();
create trigger touch before update on shop.orders for each row execute procedure shop.touch();
create trigger touch before update on shop.documents for each row execute procedure shop.touch();

-- The audit is a table like any other: a target must get its rows from the
-- source and not write them a second time.
create function shop.audit() returns trigger language plpgsql as $$
begin
    insert into shop.audit (table_name, operation, key, before)
    values (tg_table_name, tg_op, old.id::text, to_jsonb(old));
    return null;
end $$;
create trigger audit after update or delete on shop.customers for each row execute procedure shop.audit();
create trigger audit after delete or update of status on shop.orders for each row execute procedure shop.audit();

-- No reviewer of a new row need say when.
create function shop.review_defaults() returns trigger language plpgsql as $$
begin
    new.body := coalesce(new.body, '');
    return new;
end $$;
create trigger defaults before insert on shop.reviews for each row execute procedure shop.review_defaults();

create function shop.order_total("order" bigint) returns numeric language sql stable as $$
    select coalesce(sum(quantity * price), 0) from shop."Order Lines" where order_id = "order"
$$;
comment on function shop.order_total(bigint) is 'What orders.total must be';

create view shop.open_orders as
    select o.id, o.number, c.email, o.total from shop.orders o join shop.customers c on c.id = o.customer_id
     where o.status in ('new', 'paid', 'packed');
comment on view shop.open_orders is 'Orders that are still to be sent';
create view shop.known_countries as select code, name from shop.countries;
create rule add as on insert to shop.known_countries do instead insert into shop.countries values (new.code, new.name);

-- Nobody erases the audit.
create rule keep as on delete to shop.audit do instead nothing;

alter table shop.reviews enable row level security;
create policy everybody_reads on shop.reviews for select using (true);
create policy good_ones_only on shop.reviews for insert with check (rating > 0);

create materialized view billing.revenue as
    select date_trunc('month', issued)::date as month, count(*) as invoices, sum(net) as net
      from billing.invoices group by 1;
create unique index on billing.revenue (month);
comment on materialized view billing.revenue is 'Net revenue by month';
