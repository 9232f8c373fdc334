-- What came with versions 13 to 15.
set search_path = "Odd ""Schema""", public, ext;
alter statistics mcv set statistics 55;
create function modern(a int) returns int language sql immutable begin atomic select a + 1; end;
create table newer (id int, a int, b text, unique nulls not distinct (a, b));
create statistics on_expression on (a + id), (lower(b)) from newer;
create view invoker with (security_invoker = true) as select * from newer;
create index deep on newer (a) with (deduplicate_items = off);
create type multi as range (subtype = int4, multirange_type_name = multis);
