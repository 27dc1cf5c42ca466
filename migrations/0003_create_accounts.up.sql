-- Accounts are the tenants; people act for them.
create table accounts (
  account_id text primary key check (account_id ~ '^acc_[0-9a-v]{26}$'),
  name text not null,
  created_at timestamptz not null default now()
);
-- The platform itself: fees, promotion and the treasury are its money.
insert into accounts (account_id, name) values ('acc_00000000000000000000000000', 'platform');
select callora_isolate('accounts');
grant select, insert on accounts to callora_app, callora_worker;

create table users (
  account_id text not null references accounts (account_id),
  id text not null check (id ~ '^usr_[0-9a-v]{26}$'),
  username text not null,
  email text not null default '',
  password_hash text not null,
  role text not null check (role in ('user', 'developer', 'admin', 'super_admin')),
  active boolean not null default true,
  created_at timestamptz not null default now(),
  primary key (account_id, id)
);
select callora_isolate('users');
grant select, insert, update on users to callora_app, callora_worker;

-- Whose a name is, in lower case.
create table user_directory (
  username text primary key check (username = lower(username)),
  account_id text not null,
  user_id text not null
);
select callora_isolate('user_directory');
grant select, insert on user_directory to callora_app, callora_worker;

-- Whose a mail address is, in lower case.
create table email_directory (
  email text primary key check (email = lower(email)),
  account_id text not null,
  user_id text not null
);
select callora_isolate('email_directory');
grant select, insert on email_directory to callora_app, callora_worker;

-- Sign-ins. The token itself is not kept.
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

-- What the answer to a create was, so that a retry gets it again instead of a second one.
create table idempotency_keys (
  account_id text not null,
  method text not null,
  key text not null,
  request_hash bytea not null,
  response bytea not null,
  created_at timestamptz not null default now(),
  primary key (account_id, method, key)
);
create index idempotency_keys_created on idempotency_keys (created_at);
select callora_isolate('idempotency_keys');
grant select, insert, update on idempotency_keys to callora_app;
grant select, insert, update, delete on idempotency_keys to callora_worker;
