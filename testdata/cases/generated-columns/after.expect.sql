select gross = 11.90 and label = 'none #300' from price where id = 300;
