alter table renamed rename to t;
