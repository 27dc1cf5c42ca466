drop table rate_overrides;
