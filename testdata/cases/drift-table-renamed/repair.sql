alter table t rename to renamed;
