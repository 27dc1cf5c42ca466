-- Credentials of accounts at providers, sealed, and how the keys that seal them are recognised.

create table credentials (
  account_id text not null,
  id text not null check (id ~ '^crd_[0-9a-v]{26}$'),
  provider text not null check (provider ~ '^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,99}$'),
  environment text not null check (environment in ('live', 'test')),
  -- The names of the fields. Their values are in `sealed` alone.
  fields text[] not null,
  enabled boolean not null default true,
  -- The values, under a key outside of the database. Null once removed: nobody who serves tenants may delete rows.
  sealed bytea check (octet_length(sealed) between 33 and 131072 and get_byte(sealed, 0) = 1),
  -- The key that sealed it, as `sealed` itself says.
  key_version integer generated always as (
    (get_byte(sealed, 1) << 24) | (get_byte(sealed, 2) << 16) | (get_byte(sealed, 3) << 8) | get_byte(sealed, 4)
  ) stored,
  -- When it was found that `sealed` cannot be opened: it was changed by somebody else than the server.
  unreadable_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (account_id, id),
  unique (account_id, provider, environment),
  check ((sealed is null) = (fields = '{}'))
);
create index credentials_key_version on credentials (key_version);
create index credentials_removed on credentials (account_id, id) where sealed is null;
create index credentials_unreadable on credentials (account_id, id) where unreadable_at is not null;
select callora_isolate('credentials');
grant select, insert, update on credentials to callora_app;
grant select, update, delete on credentials to callora_worker;

-- What each version of ENCRYPTION_KEYS is recognised by: a constant that only the key itself can make.
create table encryption_keys (
  version integer primary key check (version > 0),
  check_value bytea not null check (octet_length(check_value) = 32),
  created_at timestamptz not null default now()
);
select callora_reserve('encryption_keys');
grant select, insert on encryption_keys to callora_worker;
