-- What came with versions 11 and 12.
set search_path = "Odd ""Schema""", public, ext;
create procedure does(a int) language sql as 'select 1';
create table made (id int primary key, twice int generated always as (id * 2) stored, other text);
alter index "in dex" alter column 1 set statistics 77;
create index covering on made (id) include (other);
create statistics mcv (mcv) on id, other from made;
alter table parted add constraint parted_pk primary key (id, at);
create index "parted val" on parted (val);
create unique index on parted (at, id);
create index on parted_list (id desc);
create table parted_rest partition of parted default;
create table to_parted (id int, at date, constraint to_parted_fk foreign key (id, at) references parted);
create table parted_refers (id int primary key references made) partition by hash (id);
create table parted_refers_0 partition of parted_refers for values with (modulus 2, remainder 0);
create table parted_refers_1 partition of parted_refers for values with (modulus 2, remainder 1);
create trigger on_parted after insert on parted for each row execute function nop();
create trigger on_parted_off after insert on parted for each row execute function nop();
alter table "parted 1" disable trigger on_parted_off;
