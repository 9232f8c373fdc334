-- What a command could have changed in a database, and what of it belongs to the whole
-- server, a row each. NAME is the name of the migration.
select 'schema', nspname::text, nspowner::regrole::text, nspacl::text from pg_namespace where nspname !~ '^pg_(toast_)?temp_'
union all
select 'relation ' || relkind::text, c.oid::regclass::text, relowner::regrole::text || ' ' || relreplident::text, relacl::text || array_to_string(reloptions, ',')
  from pg_class c where relnamespace not in ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace)
union all
select 'column', attrelid::regclass::text || '.' || attname, atttypid::regtype::text || attnotnull::text, attacl::text
  from pg_attribute a join pg_class c on c.oid = attrelid
  where attnum > 0 and relnamespace not in ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace)
union all
select 'constraint', conrelid::regclass::text || '.' || conname, pg_get_constraintdef(c.oid), convalidated::text from pg_constraint c
  where connamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
union all
select 'function', p.oid::regprocedure::text, proacl::text, md5(prosrc) from pg_proc p
  where pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
union all
select 'trigger', tgrelid::regclass::text || '.' || tgname, tgenabled::text, pg_get_triggerdef(t.oid) from pg_trigger t
union all
select 'event trigger', evtname, evtevent, evtenabled::text from pg_event_trigger
union all
select 'extension', extname, extversion, null from pg_extension
union all
select 'publication', pubname, puballtables::text, null from pg_publication
union all
select 'published', prpubid::text, prrelid::regclass::text, null from pg_publication_rel
union all
select 'subscription', subname, subenabled::text, null from pg_subscription where subdbid = (select oid from pg_database where datname = current_database())
union all
select 'slot', slot_name, plugin, null from pg_replication_slots where database = current_database() or slot_name = 'walferry_NAME'
union all
select 'origin', roname, null, null from pg_replication_origin where roname = 'walferry_NAME'
union all
select 'settings', setdatabase::text, setrole::text, setconfig::text from pg_db_role_setting
  where setdatabase in (0, (select oid from pg_database where datname = current_database()))
union all
select 'database', datname, datconnlimit::text, datacl::text from pg_database where datname = current_database()
union all
select 'sequence', schemaname || '.' || sequencename, last_value::text, null from pg_sequences
union all
select 'prepared', gid, null, null from pg_prepared_xacts where database = current_database()
order by 1, 2, 3, 4
