-- A statement for each table that returns the hash of its rows. What a running migrate
-- writes all the time is left out.
select format('select %L, count(*), md5(string_agg(t::text, chr(10) order by t::text)) from %s t', c.oid::regclass, c.oid::regclass)
  from pg_class c where relkind in ('r', 'm') and relpersistence <> 't' and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
  and not (relnamespace::regnamespace::text = 'walferry' and relname in ('heartbeat', 'migration', 'progress'))
order by 1
