select count(*) = 21 and bool_and(extra = 'by default' and twice = b * 2 and plain is null) from t;
select count(*) = 9 and bool_and(extra = 7) from whole;
select count(*) = 9 and bool_and(extra = 'kept') from always;
