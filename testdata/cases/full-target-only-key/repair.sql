drop index only_here;
