create table parent (id int primary key, best int);
create table child (id int primary key, parent int not null references parent deferrable initially deferred);
alter table parent add foreign key (best) references child deferrable initially deferred;
