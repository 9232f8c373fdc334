alter table t rename column v to w;
