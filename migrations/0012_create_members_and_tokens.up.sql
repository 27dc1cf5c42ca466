-- Who acts for which account, and with what: members, tokens, and identities that others vouch for.

-- Row-level security would hide the rows from their owner, who lists them here.
alter table users no force row level security;

alter table users
  add column rate_limit_per_second integer check (rate_limit_per_second > 0),
  add column rate_limit_burst integer check (rate_limit_burst > 0);
grant delete on user_directory, email_directory to callora_worker;
grant update on accounts to callora_app, callora_worker;

-- Who may act for an account. Whoever left keeps the row.
create table members (
  account_id text not null references accounts (account_id),
  user_id text not null,
  role text not null check (role in ('owner', 'admin', 'member', 'viewer')),
  created_at timestamptz not null default now(),
  removed_at timestamptz,
  primary key (account_id, user_id)
);
-- The check of its reference to accounts is made as their owner.
alter table accounts no force row level security;
insert into members (account_id, user_id, role) select account_id, id, 'owner' from users;
alter table accounts force row level security;
select callora_isolate('members');
grant select, insert, update on members to callora_app, callora_worker;

-- Which accounts a person is, or was, a member of.
create table member_directory (
  user_id text not null,
  account_id text not null,
  primary key (user_id, account_id)
);
insert into member_directory (user_id, account_id) select id, account_id from users;
alter table users force row level security;
select callora_isolate('member_directory');
grant select, insert on member_directory to callora_app, callora_worker;

-- Offers to become a member. What the mail carries is not kept.
create table invitations (
  account_id text not null,
  id text not null check (id ~ '^inv_[0-9a-v]{26}$'),
  email text not null check (email = lower(email)),
  role text not null check (role in ('owner', 'admin', 'member', 'viewer')),
  invited_by text not null,
  created_at timestamptz not null default now(),
  expire_at timestamptz not null,
  accepted_at timestamptz,
  revoked_at timestamptz,
  primary key (account_id, id)
);
-- One open invitation for each address.
create unique index invitations_one_open on invitations (account_id, email)
where accepted_at is null and revoked_at is null;
select callora_isolate('invitations');
grant select, insert, update on invitations to callora_app, callora_worker;

-- Which invitation a token's hash is.
create table invitation_directory (
  token_hash bytea primary key check (octet_length(token_hash) = 32),
  account_id text not null,
  invitation_id text not null
);
select callora_isolate('invitation_directory');
grant select, insert on invitation_directory to callora_app;
grant select on invitation_directory to callora_worker;

-- Tokens that act as whoever made them. Only the hash is kept.
create table api_tokens (
  account_id text not null,
  id text not null check (id ~ '^tok_[0-9a-v]{26}$'),
  user_id text not null,
  name text not null,
  created_at timestamptz not null default now(),
  expire_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  primary key (account_id, id)
);
create index api_tokens_user on api_tokens (account_id, user_id, id desc);
select callora_isolate('api_tokens');
grant select, insert, update on api_tokens to callora_app;
grant select, update on api_tokens to callora_worker;

-- Whose token a hash is.
create table api_token_directory (
  token_hash bytea primary key check (octet_length(token_hash) = 32),
  account_id text not null,
  token_id text not null
);
select callora_isolate('api_token_directory');
grant select, insert on api_token_directory to callora_app;
grant select on api_token_directory to callora_worker;

-- Who a person is elsewhere: a subject of an issuer of tokens, or an account of a Stellar network.
create table user_identities (
  issuer text not null,
  subject text not null,
  account_id text not null,
  user_id text not null,
  created_at timestamptz not null default now(),
  primary key (issuer, subject)
);
select callora_isolate('user_identities');
grant select on user_identities to callora_app;
grant select, insert on user_identities to callora_worker;

-- Challenges that wallets have answered: each is good for one sign-in.
create table wallet_challenges (
  hash bytea primary key check (octet_length(hash) = 32),
  expire_at timestamptz not null
);
create index wallet_challenges_expire on wallet_challenges (expire_at);
select callora_reserve('wallet_challenges');
grant select, insert, delete on wallet_challenges to callora_worker;

-- Tokens of internal services, which belong to the platform.
create table service_tokens (
  id text primary key check (id ~ '^svt_[0-9a-v]{26}$'),
  name text not null,
  token_hash bytea not null unique check (octet_length(token_hash) = 32),
  scopes text[] not null check (cardinality(scopes) > 0),
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  revoked_at timestamptz
);
select callora_reserve('service_tokens');
grant select, insert, update on service_tokens to callora_worker;
