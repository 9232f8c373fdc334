select count(*) = 13 from keyed;
select count(*) = 10 from keyless;
