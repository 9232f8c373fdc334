alter table a drop constraint a_pkey, add primary key (id) deferrable initially deferred;
