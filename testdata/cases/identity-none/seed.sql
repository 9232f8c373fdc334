insert into keyless values (1);
