insert into t values (3000, 'on the target');
