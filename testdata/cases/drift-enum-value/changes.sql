alter type mood add value 'happy';
insert into t values (2, 'happy');
