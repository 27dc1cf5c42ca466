-- What a key may do, how often, how it is replaced; and the keys of the router.

-- A key without an API opens all of them.
alter table api_keys alter column api_id drop not null;
alter table api_keys
  -- The first key of a rotation, and of each key that replaces it: what they share hangs on it.
  add column family_id text,
  add column state text not null default 'active' check (state in ('active', 'disabled')),
  add column allowed_cidrs text[] not null default '{}' check (cardinality(allowed_cidrs) <= 32),
  add column rate_limit_per_day integer check (rate_limit_per_day > 0),
  add column metadata jsonb not null default '{}'
    check (jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 8192),
  add column updated_at timestamptz not null default now(),
  -- The key that replaces this one, and how long this one is still accepted beside it.
  add column rotated_to text,
  add column rotate_until timestamptz,
  add column deleted_at timestamptz,
  add constraint api_keys_scopes_check check (cardinality(scopes) <= 64),
  add constraint api_keys_rotation_check check ((rotated_to is null) = (rotate_until is null)),
  add constraint api_keys_deleted_check check (deleted_at is null or revoked_at is not null);

-- Row-level security is forced upon the owner as well, who would see no row to fill.
alter table api_keys no force row level security;
update api_keys set family_id = id;
alter table api_keys force row level security;
alter table api_keys alter column family_id set not null;

-- One live key for each account, API and mode. One that is being replaced is not counted.
drop index api_keys_one_live;
create unique index api_keys_one_live on api_keys (account_id, api_id, mode)
where revoked_at is null and rotated_to is null;
create index api_keys_family on api_keys (account_id, family_id);

-- The uses that a family of keys has left. Without a limit there is no quota.
create table key_quotas (
  account_id text not null,
  family_id text not null check (family_id ~ '^key_[0-9a-v]{26}$'),
  uses_max bigint check (uses_max >= 0),
  uses_left bigint not null default 0 check (uses_left >= 0 and uses_left <= coalesce(uses_max, 0)),
  refill text not null default 'none' check (refill in ('none', 'daily', 'monthly')),
  refill_day smallint not null default 1 check (refill_day between 1 and 31),
  refilled_at timestamptz not null default now(),
  -- From when on the uses are uses_max again. Null: never.
  refill_at timestamptz,
  primary key (account_id, family_id)
);
select callora_isolate('key_quotas');
grant select, insert, update on key_quotas to callora_app;
grant select, update on key_quotas to callora_worker;

-- When a quota is next refilled after a moment: at 00:00 UTC, each day, or on a day of the month (the last one of a
-- month that is shorter). Null: never.
create function callora_next_refill(refill text, refill_day integer, after timestamptz) returns timestamptz
language sql immutable parallel safe
return case refill
  when 'daily' then (date_trunc('day', after at time zone 'UTC') + interval '1 day') at time zone 'UTC'
  when 'monthly' then (
    select min(candidate) at time zone 'UTC'
    from (
      select month + make_interval(
        days => least(refill_day, extract(day from month + interval '1 month' - interval '1 day')::integer) - 1
      ) as candidate
      from (
        select date_trunc('month', after at time zone 'UTC') + make_interval(months => ahead) as month
        from generate_series(0, 1) as ahead
      ) as months
    ) as candidates
    where candidate > after at time zone 'UTC'
  )
end;

-- The key with which an account's router asks for its providers: one for each account. The row stays when the key
-- is deleted or replaced.
create table router_keys (
  account_id text primary key,
  id text not null check (id ~ '^rky_[0-9a-v]{26}$'),
  user_id text not null,
  start varchar(6) not null,
  key_hash bytea not null check (octet_length(key_hash) = 32),
  enabled boolean not null default true,
  created_at timestamptz not null default now(),
  expire_at timestamptz,
  deleted_at timestamptz
);
select callora_isolate('router_keys');
grant select, insert, update on router_keys to callora_app;
grant select on router_keys to callora_worker;

-- Whose router key a hash is, or once was.
create table router_key_directory (
  key_hash bytea primary key check (octet_length(key_hash) = 32),
  account_id text not null
);
select callora_isolate('router_key_directory');
grant select, insert on router_key_directory to callora_app;
grant select on router_key_directory to callora_worker;
