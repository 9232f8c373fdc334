alter table t rename column old_name to new_name;
