alter table t alter column g drop expression;
