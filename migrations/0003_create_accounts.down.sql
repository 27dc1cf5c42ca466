drop table idempotency_keys;
drop table sessions;
drop table email_directory;
drop table user_directory;
drop table users;
drop table accounts;
