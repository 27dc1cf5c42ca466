-- Database roles, the tenant of a transaction, API keys and vault snapshots.

-- Two roles besides the owner of the tables: callora_app serves tenants and sees one account at a time,
-- callora_worker applies and pays for all of them. Neither owns anything or passes by row-level security.
do $$
declare
  wanted text;
begin
  foreach wanted in array array['callora_app', 'callora_worker'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      execute format('create role %I nologin', wanted);
      execute format('grant %I to %I', wanted, current_user);
    end if;
  end loop;
end
$$;

grant usage on schema public to callora_app, callora_worker;

-- The account that the transaction serves, set by `set local app.account`. Null means none: no row is visible.
create function callora_account() returns text
language sql stable parallel safe
return nullif(current_setting('app.account', true), '');

-- Isolate a table by account_id: the app role sees the transaction's account, the worker role sees all.
create function callora_isolate(isolated regclass) returns void
language plpgsql as $$
begin
  execute format('alter table %s enable row level security', isolated);
  execute format('alter table %s force row level security', isolated);
  execute format(
    'create policy tenant on %s to callora_app using (account_id = callora_account())
     with check (account_id = callora_account())', isolated);
  execute format('create policy worker on %s to callora_worker using (true) with check (true)', isolated);
end
$$;

-- Keep a table for the worker role alone.
create function callora_reserve(reserved regclass) returns void
language plpgsql as $$
begin
  execute format('alter table %s enable row level security', reserved);
  execute format('alter table %s force row level security', reserved);
  execute format('create policy worker on %s to callora_worker using (true) with check (true)', reserved);
end
$$;

-- Refuse every change of a row that exists. The second lock: the roles have no right to change it either.
create function callora_refuse_change() returns trigger
language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'integrity_constraint_violation';
end
$$;

-- API keys. Only the hash of the secret is kept.
create table api_keys (
  account_id text not null,
  id text not null check (id ~ '^key_[0-9a-v]{26}$'),
  user_id text not null,
  api_id text not null,
  mode text not null check (mode in ('live', 'test')),
  display_name text not null default '',
  prefix varchar(16) not null,
  key_hash bytea not null check (octet_length(key_hash) = 32),
  scopes text[] not null default '{}',
  rate_limit_per_minute integer check (rate_limit_per_minute > 0),
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  expire_at timestamptz,
  revoked_at timestamptz,
  primary key (account_id, id)
);
-- One live key for each account, API and mode.
create unique index api_keys_one_live on api_keys (account_id, api_id, mode) where revoked_at is null;
create index api_keys_prefix on api_keys (account_id, prefix);
select callora_isolate('api_keys');
grant select, insert, update on api_keys to callora_app;
grant select, update on api_keys to callora_worker;

-- Whose key a hash is: the one look-up that starts without an account.
create table api_key_directory (
  key_hash bytea primary key check (octet_length(key_hash) = 32),
  account_id text not null,
  key_id text not null
);
select callora_isolate('api_key_directory');
grant select, insert on api_key_directory to callora_app;
grant select on api_key_directory to callora_worker;

-- What an account's vault contract held when it was last read.
create table vaults (
  account_id text not null,
  network varchar(32) not null,
  stellar_vault_contract_id text,
  balance_nanos bigint not null default 0 check (balance_nanos >= 0),
  last_synced_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (account_id, network)
);
select callora_isolate('vaults');
grant select on vaults to callora_app;
grant select, insert, update on vaults to callora_worker;
