-- Signing in: passwords and other ways, second factors, sessions with ids, and what is mailed to prove an address.

-- Row-level security would hide the rows of these tables from their owner, who moves them here.
alter table users no force row level security;
alter table sessions no force row level security;

alter table users
  add column name text not null default '',
  add column image text,
  add column email_verified boolean not null default false,
  add column has_completed_onboarding boolean not null default false,
  add column two_factor_enabled boolean not null default false,
  add column updated_at timestamptz not null default now();

-- In which account a person's own row is.
create table person_directory (
  user_id text primary key,
  account_id text not null
);
insert into person_directory (user_id, account_id) select id, account_id from users;
select callora_isolate('person_directory');
grant select, insert on person_directory to callora_app, callora_worker;

-- The ways in which a person may sign in: one password, and accounts elsewhere. Read before it is known who calls.
create table sign_in_methods (
  id text primary key check (id ~ '^sim_[0-9a-v]{26}$'),
  user_id text not null,
  provider_id text not null,
  -- The person's id where they sign in. For a password: their id here.
  provider_account_id text not null,
  password_hash text,
  access_token text,
  refresh_token text,
  id_token text,
  access_token_expire_at timestamptz,
  refresh_token_expire_at timestamptz,
  scope text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (provider_id, provider_account_id),
  check (provider_id <> 'credential' or (password_hash is not null and provider_account_id = user_id))
);
create index sign_in_methods_user on sign_in_methods (user_id);
insert into sign_in_methods (id, user_id, provider_id, provider_account_id, password_hash, created_at)
select 'sim_' || substr(md5(random()::text || id), 1, 26), id, 'credential', id, password_hash, created_at
from users;
select callora_reserve('sign_in_methods');
grant select, insert, update, delete on sign_in_methods to callora_worker;

alter table users drop column password_hash;
alter table users force row level security;

-- What proves that somebody began a sign-in, or reads the mail of an address. Used once, by the hash of its name.
create table sign_in_tokens (
  id text primary key check (id ~ '^sit_[0-9a-v]{26}$'),
  identifier text not null,
  value text not null,
  expire_at timestamptz not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index sign_in_tokens_identifier on sign_in_tokens (identifier);
create index sign_in_tokens_expire on sign_in_tokens (expire_at);
select callora_reserve('sign_in_tokens');
grant select, insert, update, delete on sign_in_tokens to callora_worker;

-- The secrets of authenticator apps, encrypted.
create table second_factors (
  id text primary key check (id ~ '^sec_[0-9a-v]{26}$'),
  user_id text not null unique,
  secret text not null,
  backup_codes text not null,
  verified boolean not null default false,
  failed_verification_count integer not null default 0,
  locked_until timestamptz
);
select callora_reserve('second_factors');
grant select, insert, update, delete on second_factors to callora_worker;

-- A session has an id, so that it can be named without its token; one that is named in a signed token has no other.
alter table sessions
  add column id text,
  add column method text not null default 'password' check (method in ('password', 'wallet', 'cookie')),
  add column ip inet,
  add column user_agent text not null default '',
  add column updated_at timestamptz not null default now(),
  add column revoked_at timestamptz;
update sessions set id = 'ses_' || substr(md5(random()::text || token_hash::text), 1, 26);
alter table sessions
  drop constraint sessions_pkey,
  alter column id set not null,
  alter column token_hash drop not null,
  add primary key (id),
  add unique (token_hash),
  add check (id ~ '^ses_[0-9a-v]{26}$');
create index sessions_user on sessions (user_id);
alter table sessions force row level security;
grant update on sessions to callora_app;
grant insert, update on sessions to callora_worker;
