select count(*) filter (where v = 'old' and id <= 10) = 10 and count(*) filter (where v = 'older') = 5 and count(*) filter (where v = 'fresh') = 5 and count(*) = 20 from a;
