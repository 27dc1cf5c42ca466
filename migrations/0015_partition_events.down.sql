-- refuses-rows: usage_events
drop table outbox;
drop table projections;
drop table debt_limits;
drop table charge_totals;
alter table revenue_totals no force row level security;
delete from revenue_totals where shard <> 0;
alter table revenue_totals force row level security;
alter table revenue_totals
  drop constraint revenue_totals_pkey,
  drop column shard,
  add primary key (account_id, mode, fee_basis_points);
drop function callora_add_partitions(date);
drop table usage_events;
drop schema callora_parts;
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
