select count(*) filter (where v = 'new') = 5 and count(*) filter (where v = 'newer') = 5 and count(*) = 20 from a;
