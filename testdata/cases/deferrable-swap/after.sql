update t set place = 21 - place;
