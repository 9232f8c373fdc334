alter table t drop column gone;
