select count(*) = 1 from keyed where k::text = 'ABC' collate "C";
select count(*) = 1 from whole where ic = 'cASE' collate "C";
select count(*) = 6 from whole;
