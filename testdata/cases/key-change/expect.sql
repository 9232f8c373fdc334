select v = 'v21' from plain where id = 20;
select v = 'v20' from plain where id = 21;
