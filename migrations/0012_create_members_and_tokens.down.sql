drop table service_tokens;
drop table wallet_challenges;
drop table user_identities;
drop table api_token_directory;
drop table api_tokens;
drop table sessions;
drop table invitation_directory;
drop table invitations;
drop table member_directory;
drop table members;
drop table person_directory;
revoke update on accounts from callora_app, callora_worker;
revoke delete on user_directory, email_directory from callora_worker;
alter table users
  drop column rate_limit_per_second,
  drop column rate_limit_burst,
  drop column updated_at;

create table sessions (
  token_hash bytea primary key check (octet_length(token_hash) = 32),
  account_id text not null,
  user_id text not null,
  created_at timestamptz not null default now(),
  expire_at timestamptz not null
);
create index sessions_expire on sessions (expire_at);
select callora_isolate('sessions');
grant select, insert on sessions to callora_app;
grant select, delete on sessions to callora_worker;
