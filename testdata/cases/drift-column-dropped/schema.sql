create table t (id int primary key, gone text default 'old', v text);
