-- What of an account's credit may be spent, by whom and in which time.

-- Who made a key, or the first of its rotation: budgets of members hang on it.
alter table api_keys add column created_by text not null default '';
alter table api_keys no force row level security;
update api_keys set created_by = first.user_id
from api_keys as first
where first.account_id = api_keys.account_id and first.id = api_keys.family_id;
alter table api_keys force row level security;

-- What a lease took from budgets: `<budget> <first day of its period>`.
alter table credit_leases add column budgets text[] not null default '{}';
create index credit_leases_holder on credit_leases (holder) where state = 'active';

create table budgets (
  account_id text not null,
  id text not null check (id ~ '^bud_[0-9a-v]{26}$'),
  scope text not null check (scope in ('account', 'member', 'key')),
  subject_id text not null default '',
  period text not null check (period in ('total', 'day', 'month')),
  mode text not null check (mode in ('live', 'test')),
  limit_nanos bigint not null check (limit_nanos >= 0),
  deleted_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (account_id, id),
  check ((scope = 'account') = (subject_id = ''))
);
create unique index budgets_one on budgets (account_id, scope, subject_id, period, mode)
where deleted_at is null;
select callora_isolate('budgets');
grant select, insert, update on budgets to callora_app;
grant select on budgets to callora_worker;

-- What of a budget is spent or set aside, by period. 0001-01-01 for the whole of it.
create table budget_periods (
  account_id text not null,
  budget_id text not null,
  period_start date not null,
  taken_nanos bigint not null default 0 check (taken_nanos >= 0),
  primary key (account_id, budget_id, period_start)
);
select callora_isolate('budget_periods');
grant select on budget_periods to callora_app;
grant select, insert, update on budget_periods to callora_worker;

-- Whom to tell when a balance falls. Told once until it has risen again.
create table balance_alerts (
  account_id text not null,
  mode text not null check (mode in ('live', 'test')),
  threshold_nanos bigint not null check (threshold_nanos >= 0),
  armed boolean not null default true,
  told_at timestamptz,
  primary key (account_id, mode)
);
select callora_isolate('balance_alerts');
grant select, insert, update on balance_alerts to callora_app;
grant select, update on balance_alerts to callora_worker;
