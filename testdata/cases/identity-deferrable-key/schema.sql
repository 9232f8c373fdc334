create table late (a int primary key deferrable initially deferred);
