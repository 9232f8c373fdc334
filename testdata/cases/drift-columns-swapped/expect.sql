select a = 'b' and b = 'c' and c = 'a' from alike where id = 2;
