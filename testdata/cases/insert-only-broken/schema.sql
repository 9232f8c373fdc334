create table broken (n int, v text);
create table kept (n int, v text);
