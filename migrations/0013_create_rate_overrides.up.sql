-- Rates that one person or API key has instead of the ones of a class.
create table rate_overrides (
  account_id text not null references accounts (account_id),
  subject_id text not null check (subject_id ~ '^(usr|key)_[0-9a-v]{26}$'),
  rate_class text not null check (rate_class in ('console', 'v1', 'admin', 'monitor')),
  per_minute integer not null check (per_minute between 1 and 6000000),
  burst integer not null check (burst between 1 and 1000000),
  updated_at timestamptz not null default now(),
  primary key (account_id, subject_id, rate_class),
  -- A budget comes back within a day.
  check (burst <= 1440 * per_minute::bigint)
);
select callora_isolate('rate_overrides');
grant select on rate_overrides to callora_app;
grant select, insert, update, delete on rate_overrides to callora_worker;
