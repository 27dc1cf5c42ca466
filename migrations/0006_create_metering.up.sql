-- The journal holds every acknowledged event; the projector applies it in order, each event once.

-- The last durable position of each shard. Its row lock puts appends in order, without gaps.
create table journal_heads (
  shard integer primary key,
  position bigint not null default 0
);
insert into journal_heads (shard) values (0);
select callora_reserve('journal_heads');
grant select, update on journal_heads to callora_worker;

-- One row for each batch of events that was acknowledged together.
create table usage_journal (
  shard integer not null,
  position bigint not null check (position > 0),
  events jsonb not null,
  appended_at timestamptz not null default now(),
  primary key (shard, position)
);
create trigger usage_journal_no_update before update on usage_journal
for each row execute function callora_refuse_change();
select callora_reserve('usage_journal');
grant select, insert on usage_journal to callora_worker;

-- How far each shard is applied. Moves in the transaction of the effects, so each event counts once.
create table projector_cursors (
  shard integer primary key,
  position bigint not null default 0,
  updated_at timestamptz not null default now()
);
insert into projector_cursors (shard) values (0);
select callora_reserve('projector_cursors');
grant select, update on projector_cursors to callora_worker;

-- The applied events, under the consumer's account. (source, id) is the identity.
create table usage_events (
  account_id text not null,
  source text not null,
  id text not null,
  mode text not null check (mode in ('live', 'test')),
  api_id text not null,
  developer_account_id text not null,
  key_id text,
  endpoint text not null,
  status_code integer not null,
  occurred_at timestamptz not null,
  price_version integer not null,
  charged_nanos bigint not null check (charged_nanos >= 0),
  lease_id text,
  shard integer not null,
  position bigint not null,
  body_hash bytea not null,
  duplicates integer not null default 0,
  conflicts integer not null default 0,
  primary key (account_id, source, id)
);
create index usage_events_time on usage_events (account_id, occurred_at desc);
select callora_isolate('usage_events');
grant select on usage_events to callora_app;
grant select, insert, update on usage_events to callora_worker;

-- Events that came under the identity of another one, and events that cannot be applied. Kept as they came.
create table usage_quarantine (
  shard integer not null,
  position bigint not null,
  ordinal integer not null,
  account_id text not null,
  reason text not null,
  event jsonb not null,
  created_at timestamptz not null default now(),
  primary key (shard, position, ordinal)
);
select callora_reserve('usage_quarantine');
grant select, insert on usage_quarantine to callora_worker;

-- Sums by quarter of an hour, for the consumer.
create table usage_rollups (
  account_id text not null,
  mode text not null,
  api_id text not null,
  bucket timestamptz not null,
  calls bigint not null,
  errors bigint not null,
  charged_nanos bigint not null,
  primary key (account_id, mode, api_id, bucket)
);
select callora_isolate('usage_rollups');
grant select on usage_rollups to callora_app;
grant select, insert, update on usage_rollups to callora_worker;

-- The same sums for the developer, by endpoint and consumer.
create table revenue_rollups (
  account_id text not null,
  mode text not null,
  api_id text not null,
  endpoint text not null,
  consumer_account_id text not null,
  bucket timestamptz not null,
  calls bigint not null,
  errors bigint not null,
  revenue_nanos bigint not null,
  primary key (account_id, mode, api_id, bucket, endpoint, consumer_account_id)
);
select callora_isolate('revenue_rollups');
grant select on revenue_rollups to callora_app;
grant select, insert, update on revenue_rollups to callora_worker;

-- What consumers paid a developer so far, and the platform's share of it. The share is taken from the running total,
-- so that it does not depend on how events were batched.
create table revenue_totals (
  account_id text not null,
  mode text not null,
  fee_basis_points integer not null,
  gross_nanos bigint not null default 0 check (gross_nanos >= 0),
  fee_nanos bigint not null default 0 check (fee_nanos between 0 and gross_nanos),
  primary key (account_id, mode, fee_basis_points)
);
select callora_isolate('revenue_totals');
grant select on revenue_totals to callora_app;
grant select, insert, update on revenue_totals to callora_worker;
