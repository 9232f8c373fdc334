select count(*) filter (where v = 'old') = 20 and count(*) = 20 from a;
