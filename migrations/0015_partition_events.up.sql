-- Applied events by the month that the journal received them in, and what is kept beside them.

-- Nobody but the owner has any right in it: rows are reached through their parents.
create schema callora_parts;

alter table usage_events rename to usage_events_before;
alter table usage_events_before rename constraint usage_events_pkey to usage_events_before_pkey;
alter index usage_events_time rename to usage_events_before_time;

create table usage_events (
  account_id text not null,
  -- The month that the journal received it in, by the journal's row.
  received_month date not null,
  -- <bytes of source>:<source><id>
  key text collate "C" not null,
  source text not null,
  id text not null,
  mode text not null check (mode in ('live', 'test')),
  api_id text not null,
  developer_account_id text not null,
  key_id text,
  endpoint text not null,
  status_code integer not null,
  occurred_at timestamptz not null,
  received_at timestamptz not null,
  booked_month date not null,
  price_version integer not null,
  fee_basis_points integer not null,
  units bigint not null check (units > 0),
  charged_nanos bigint not null check (charged_nanos >= 0),
  fee_nanos bigint not null check (fee_nanos between 0 and charged_nanos),
  -- What paid: a lease, the balance, or nothing yet.
  leased_nanos bigint not null default 0,
  owed_nanos bigint not null default 0,
  -- What the account was charged before it, in the mode: tells which grant it burned.
  charged_before_nanos bigint not null,
  lease_id text,
  shard integer not null,
  position bigint not null,
  ordinal integer not null,
  -- The last position that was applied with it: names its transfers.
  batch_position bigint not null,
  body_hash bytea not null,
  data text not null default '',
  duplicates integer not null default 0,
  conflicts integer not null default 0,
  check (leased_nanos >= 0 and owed_nanos >= 0 and leased_nanos + owed_nanos <= charged_nanos),
  primary key (account_id, received_month, key)
) partition by range (received_month);
create index usage_events_position on usage_events (account_id, position, ordinal);
create index usage_events_time
on usage_events (account_id, occurred_at desc, position desc, ordinal desc);
create index usage_events_developer on usage_events (developer_account_id, position)
where mode = 'live';
create table callora_parts.usage_events_default partition of usage_events default;

-- Make the partitions up to a day. Only the owner may. What a missing one took is moved into it.
create function callora_add_partitions(through date) returns integer
language plpgsql as $$
declare
  month date := date_trunc('month', least(
    (now() at time zone 'UTC')::date,
    (select min(received_month) from callora_parts.usage_events_default)
  ))::date;
  made integer := 0;
  part text;
begin
  while month <= through loop
    part := 'usage_events_' || to_char(month, 'YYYYMM');
    if to_regclass('callora_parts.' || part) is null then
      execute format(
        'create table callora_parts.%I (like public.usage_events including defaults including constraints)
         with (fillfactor = 95)', part);
      execute format(
        'with moved as (
           delete from callora_parts.usage_events_default where received_month = %L returning *
         )
         insert into callora_parts.%I select * from moved', month, part);
      execute format(
        'alter table public.usage_events attach partition callora_parts.%I for values from (%L) to (%L)',
        part, month, (month + interval '1 month')::date);
      made := made + 1;
    end if;
    month := (month + interval '1 month')::date;
  end loop;
  return made;
end
$$;
revoke all on function callora_add_partitions(date) from public;

-- The events that are there, with what the journal and the ledger say of them. Which of them a lease paid is no
-- longer known: those that named one count as paid by it.
alter table usage_events_before no force row level security;
alter table usage_journal no force row level security;
alter table usage_quarantine no force row level security;
alter table ledger_transfers no force row level security;
create table usage_batches_before as
select distinct
  split_part(split_part(source_id, ':', 2), '-', 1)::bigint as first_position,
  split_part(split_part(source_id, ':', 2), '-', 2)::bigint as last_position
from ledger_transfers where source_type = 'usage';
create index on usage_batches_before (last_position);
insert into usage_events (
  account_id, received_month, key, source, id, mode, api_id, developer_account_id, key_id, endpoint,
  status_code, occurred_at, received_at, booked_month, price_version, fee_basis_points, units,
  charged_nanos, fee_nanos, leased_nanos, charged_before_nanos, lease_id, shard, position, ordinal,
  batch_position, body_hash, duplicates, conflicts
)
with journaled as (
  select distinct on (event->>'account', event->>'source', event->>'id')
    event->>'account' as account_id, event->>'source' as source, event->>'id' as id,
    (event->>'feeBasisPoints')::integer as fee_basis_points,
    position, (listed.ordinal - 1)::integer as ordinal, appended_at
  from usage_journal
  cross join lateral (select convert_from(body, 'UTF8')::jsonb as events) as decoded
  cross join lateral jsonb_array_elements(
    case when jsonb_typeof(events) = 'array' then events else '[]' end
  ) with ordinality as listed (event, ordinal)
  where not exists (
    select from usage_quarantine as quarantined
    where quarantined.position = usage_journal.position
      and quarantined.ordinal = listed.ordinal - 1
      and quarantined.reason = 'MALFORMED'
  )
  order by event->>'account', event->>'source', event->>'id', position, listed.ordinal
), known as (
  select stored.*, journaled.fee_basis_points, journaled.ordinal, journaled.appended_at,
    coalesce(sum(charged_nanos) over (
      partition by account_id, mode order by stored.position, journaled.ordinal
      rows between unbounded preceding and 1 preceding
    ), 0) as charged_before,
    coalesce(sum(charged_nanos) over (
      partition by developer_account_id, mode, fee_basis_points
      order by stored.position, journaled.ordinal
      rows between unbounded preceding and 1 preceding
    ), 0) as gross_before
  from usage_events_before as stored join journaled using (account_id, source, id)
)
select
  account_id, date_trunc('month', appended_at at time zone 'UTC')::date,
  octet_length(source) || ':' || source || id, source, id, mode, api_id, developer_account_id,
  key_id, endpoint, status_code, occurred_at, appended_at,
  date_trunc('month', occurred_at at time zone 'UTC')::date, price_version, fee_basis_points, 1,
  charged_nanos,
  (
    div((gross_before + charged_nanos) * fee_basis_points, 10000)
    - div(gross_before * fee_basis_points, 10000)
  )::bigint,
  case when lease_id is null then 0 else charged_nanos end, charged_before::bigint, lease_id, shard,
  position, ordinal,
  coalesce(
    (
      select case when first_position <= position then last_position end
      from usage_batches_before where last_position >= position
      order by last_position limit 1
    ),
    position
  ),
  body_hash, duplicates, conflicts
from known;
do $$
begin
  if (select count(*) from usage_events) <> (select count(*) from usage_events_before) then
    raise exception 'not every applied event is in the journal';
  end if;
end
$$;
drop table usage_batches_before;
drop table usage_events_before;
alter table usage_journal force row level security;
alter table usage_quarantine force row level security;
alter table ledger_transfers force row level security;
select callora_add_partitions((now() + interval '12 months')::date);
select callora_isolate('usage_events');
grant select on usage_events to callora_app;
grant select, insert, update (duplicates, conflicts) on usage_events to callora_worker;

-- The platform's share by shard: each shard's order is the journal's, so the share of each event can be found again.
alter table revenue_totals
  add column shard integer not null default 0,
  drop constraint revenue_totals_pkey,
  add primary key (account_id, mode, fee_basis_points, shard);

-- What an account was charged so far.
create table charge_totals (
  account_id text not null,
  mode text not null check (mode in ('live', 'test')),
  charged_nanos bigint not null default 0 check (charged_nanos >= 0),
  primary key (account_id, mode)
);
-- The owner reads the rows that it has just isolated.
alter table usage_events no force row level security;
insert into charge_totals (account_id, mode, charged_nanos)
select account_id, mode, sum(charged_nanos) from usage_events group by account_id, mode;
alter table usage_events force row level security;
select callora_isolate('charge_totals');
grant select on charge_totals to callora_app;
grant select, insert, update on charge_totals to callora_worker;

-- What a consumer may owe. Without a row: what the configuration says.
create table debt_limits (
  account_id text primary key,
  limit_nanos bigint not null check (limit_nanos >= 0),
  updated_at timestamptz not null default now()
);
select callora_isolate('debt_limits');
grant select on debt_limits to callora_app;
grant select, insert, update on debt_limits to callora_worker;

-- What was applied together, and what came of it.
create table projections (
  shard integer not null,
  last_position bigint not null,
  first_position bigint not null,
  applied_at timestamptz not null,
  fence bigint not null,
  events integer not null,
  duplicates integer not null,
  conflicts integer not null,
  quarantined integer not null,
  charged_live_nanos bigint not null,
  charged_test_nanos bigint not null,
  fee_nanos bigint not null,
  -- Chained over the canonical lines of its events: re-rating the journal must find the same.
  rating_hash bytea not null check (octet_length(rating_hash) = 32),
  primary key (shard, last_position)
);
select callora_reserve('projections');
grant select, insert, delete on projections to callora_worker;

-- What others are to be told. Written with the effects; loops of later versions read it in its order.
create table outbox (
  id bigint generated always as identity primary key,
  shard integer not null,
  account_id text not null,
  topic text not null,
  payload jsonb not null,
  created_at timestamptz not null default now()
);
select callora_reserve('outbox');
grant select, insert, delete on outbox to callora_worker;
