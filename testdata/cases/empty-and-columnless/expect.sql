select count(*) = 3 from nothing;
