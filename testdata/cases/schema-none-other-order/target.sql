create table t (own text default 'the target''s', d date, dropped bytea, c text, b numeric, note text, id bigint primary key, a text, filled timestamptz not null default now());
alter table t drop column dropped;
create table log (what text, own int default 5, n bigint);
alter table log replica identity full;
