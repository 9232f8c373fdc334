alter table silent drop column gone;
