-- What is billed, and the bills.

-- How a call ended, by callora.metering.v1.Outcome, and where its tiers began.
alter table usage_events
  add column outcome smallint not null default 0 check (outcome between 0 and 4),
  add column units_before bigint not null default 0 check (units_before >= 0);

-- The lines of invoices: sums by the version of the price.
create table billing_lines (
  account_id text not null,
  mode text not null check (mode in ('live', 'test')),
  booked_month date not null check (extract(day from booked_month) = 1),
  api_id text not null,
  price_version integer not null,
  calls bigint not null default 0,
  units bigint not null default 0,
  -- Of events, before corrections.
  charged_nanos bigint not null default 0 check (charged_nanos >= 0),
  -- What corrections that are booked in the month added, or took.
  corrected_nanos bigint not null default 0,
  primary key (account_id, mode, booked_month, api_id, price_version)
);

-- What corrections added to what an account was charged, or took.
alter table charge_totals add column corrected_nanos bigint not null default 0;
alter table charge_totals no force row level security;
alter table usage_corrections no force row level security;
insert into charge_totals as total (account_id, mode, corrected_nanos)
select account_id, mode, sum(delta_nanos)::bigint from usage_corrections group by 1, 2
on conflict (account_id, mode) do update set corrected_nanos = excluded.corrected_nanos;
alter table charge_totals force row level security;

-- What was charged before there were lines, and is in none: by partitions that were dropped.
create table billing_baseline (
  mode text primary key check (mode in ('live', 'test')),
  charged_nanos bigint not null
);

alter table usage_events no force row level security;
alter table usage_rollups no force row level security;
insert into billing_lines (
  account_id, mode, booked_month, api_id, price_version, calls, units, charged_nanos, corrected_nanos
)
select account_id, mode, booked_month, api_id, price_version,
  sum(calls), sum(units), sum(charged_nanos), sum(corrected_nanos)
from (
  select account_id, mode, booked_month, api_id, price_version,
    1 as calls, units, charged_nanos, 0 as corrected_nanos
  from usage_events
  union all
  select account_id, correction.mode, correction.booked_month, correction.api_id, event.price_version,
    0, 0, 0, correction.delta_nanos
  from usage_corrections as correction
  join usage_events as event using (account_id)
  where event.key = correction.event_key and event.position = correction.event_position
    and event.ordinal = correction.event_ordinal
) as parts
group by account_id, mode, booked_month, api_id, price_version;
insert into billing_baseline (mode, charged_nanos)
select mode, coalesce((select sum(charged_nanos) from usage_rollups as rollup where rollup.mode = modes.mode), 0)
  - coalesce((
    select sum(charged_nanos + corrected_nanos) from billing_lines as line where line.mode = modes.mode
  ), 0)
from (values ('live'), ('test')) as modes (mode);
alter table usage_events force row level security;
alter table usage_corrections force row level security;
alter table usage_rollups force row level security;
select callora_isolate('billing_lines');
grant select on billing_lines to callora_app;
grant select, insert, update on billing_lines to callora_worker;
select callora_reserve('billing_baseline');
grant select on billing_baseline to callora_worker;

create table invoices (
  account_id text not null,
  id text not null check (id ~ '^ivc_[0-9a-v]{26}$'),
  number text not null,
  mode text not null check (mode in ('live', 'test')),
  month date not null check (extract(day from month) = 1),
  -- callora.credits.v1.Invoice as JSON, as it was issued.
  content text not null,
  charged_nanos bigint not null,
  issued_at timestamptz not null,
  primary key (account_id, mode, month)
);
create trigger invoices_no_change before update or delete on invoices
for each row execute function callora_refuse_change();
create trigger invoices_no_truncate before truncate on invoices
for each statement execute function callora_refuse_change();
select callora_isolate('invoices');
grant select on invoices to callora_app;
grant select, insert on invoices to callora_worker;

-- How far the invoices of closed months are issued: by account, up to the end.
create table invoice_rounds (
  month date primary key check (extract(day from month) = 1),
  after_account text not null default '',
  done_at timestamptz
);
select callora_reserve('invoice_rounds');
grant select, insert, update on invoice_rounds to callora_worker;

-- Whose invoice of a month could not be issued, and when it was last tried.
create table invoice_retries (
  month date not null check (extract(day from month) = 1),
  account_id text not null,
  tried_at timestamptz not null,
  primary key (month, account_id)
);
select callora_reserve('invoice_retries');
grant select, insert, update, delete on invoice_retries to callora_worker;
