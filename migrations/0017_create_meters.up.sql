-- What accounts count of their events.
create table meters (
  account_id text not null,
  id text not null check (id ~ '^mtr_[0-9a-v]{26}$'),
  slug text not null,
  aggregation text not null check (
    aggregation in ('sum', 'count', 'avg', 'min', 'max', 'unique_count', 'latest')
  ),
  value_path text not null,
  groups jsonb not null default '[]',
  filters jsonb not null default '[]',
  side text not null check (side in ('consumer', 'developer')),
  -- What each shard had applied when counting began: the projector counts what follows, a loop what was before.
  -- Null until it begins.
  start_positions bigint[],
  built_to bigint not null default 0,
  state text not null default 'building' check (state in ('building', 'active', 'deleted')),
  created_at timestamptz not null default now(),
  primary key (account_id, id)
);
create unique index meters_slug on meters (account_id, slug) where state <> 'deleted';
select callora_isolate('meters');
grant select, insert, update (state) on meters to callora_app;
grant select, insert, update, delete on meters to callora_worker;

-- The groups that a meter has seen, by a hash of their texts. As many as it may have; others share the key '…'.
create table meter_groups (
  account_id text not null,
  meter_id text not null,
  group_key text collate "C" not null,
  texts jsonb not null,
  primary key (account_id, meter_id, group_key)
);
select callora_isolate('meter_groups');
grant select on meter_groups to callora_app;
grant select, insert, delete on meter_groups to callora_worker;

-- One row for a quarter of an hour and group; group_key '' is the sum of all groups.
create table meter_rollups (
  account_id text not null,
  meter_id text not null,
  mode text not null check (mode in ('live', 'test')),
  group_key text collate "C" not null,
  bucket timestamptz not null,
  events bigint not null,
  skipped bigint not null,
  total numeric,
  least numeric,
  greatest numeric,
  latest text,
  latest_at timestamptz,
  latest_position bigint,
  latest_ordinal integer,
  primary key (account_id, meter_id, mode, group_key, bucket)
) with (fillfactor = 80);
select callora_isolate('meter_rollups');
grant select on meter_rollups to callora_app;
grant select, insert, update, delete on meter_rollups to callora_worker;

create table meter_uniques (
  account_id text not null,
  meter_id text not null,
  mode text not null check (mode in ('live', 'test')),
  group_key text collate "C" not null,
  bucket timestamptz not null,
  value_hash bytea not null check (octet_length(value_hash) = 16),
  primary key (account_id, meter_id, mode, group_key, bucket, value_hash)
);
select callora_isolate('meter_uniques');
grant select on meter_uniques to callora_app;
grant select, insert, delete on meter_uniques to callora_worker;
