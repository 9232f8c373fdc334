create table t (id int primary key, place int not null unique deferrable initially immediate, late int unique deferrable initially deferred);
