drop table encryption_keys;
drop table credentials;
