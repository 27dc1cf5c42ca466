-- refuses-rows: second_factors
alter table users no force row level security;
alter table sessions no force row level security;
alter table sign_in_methods no force row level security;

alter table users add column password_hash text;
update users set password_hash = coalesce(
  (select methods.password_hash from sign_in_methods as methods
   where methods.user_id = users.id and methods.provider_id = 'credential'),
  -- Nobody's: whoever has no password must not get one.
  '$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
);
alter table users
  alter column password_hash set not null,
  drop column name,
  drop column image,
  drop column email_verified,
  drop column has_completed_onboarding,
  drop column two_factor_enabled,
  drop column updated_at;
alter table users force row level security;

drop table second_factors;
drop table sign_in_tokens;
drop table sign_in_methods;
drop table person_directory;

revoke update on sessions from callora_app;
revoke insert, update on sessions from callora_worker;
delete from sessions where token_hash is null or revoked_at is not null;
drop index sessions_user;
alter table sessions
  drop constraint sessions_pkey,
  drop constraint sessions_token_hash_key,
  drop column id,
  drop column method,
  drop column ip,
  drop column user_agent,
  drop column updated_at,
  drop column revoked_at,
  alter column token_hash set not null,
  add primary key (token_hash);
alter table sessions force row level security;
