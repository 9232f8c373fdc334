select count(*) filter (where v = 'new') = 10 and count(*) = 20 from a;
