-- Months that bills are made of, and what is archived and removed.

-- A month is closed by the first settlement run after its end.
create table periods (
  month date primary key check (extract(day from month) = 1),
  closed_position bigint not null,
  settlement_id text not null,
  closed_at timestamptz not null default now()
);
create trigger periods_no_change before update or delete on periods
for each row execute function callora_refuse_change();
select callora_reserve('periods');
grant select, insert on periods to callora_worker;

-- An event that comes after its month was closed is booked in a later one.
alter table usage_rollups add column booked_month date;
alter table usage_rollups no force row level security;
update usage_rollups set booked_month = date_trunc('month', bucket at time zone 'UTC')::date;
alter table usage_rollups force row level security;
alter table usage_rollups
  alter column booked_month set not null,
  drop constraint usage_rollups_pkey,
  add primary key (account_id, mode, api_id, bucket, booked_month);
alter table revenue_rollups add column booked_month date;
alter table revenue_rollups no force row level security;
update revenue_rollups set booked_month = date_trunc('month', bucket at time zone 'UTC')::date;
alter table revenue_rollups force row level security;
alter table revenue_rollups
  alter column booked_month set not null,
  drop constraint revenue_rollups_pkey,
  add primary key (
    account_id, mode, api_id, bucket, endpoint, consumer_account_id, booked_month
  );

-- Parts of the journal that are in a file, with what they came to. Trimming goes no further.
create table journal_archives (
  first_position bigint primary key,
  last_position bigint not null,
  file text not null,
  bytes bigint not null,
  sha256 bytea not null,
  entries bigint not null,
  charged_live_nanos bigint not null,
  charged_test_nanos bigint not null,
  -- By shard: what re-rating begins with after it (chain hash, running totals).
  checkpoint jsonb not null,
  created_at timestamptz not null default now(),
  trimmed_at timestamptz,
  check (last_position >= first_position)
);
select callora_reserve('journal_archives');
grant select, insert, update (trimmed_at) on journal_archives to callora_worker;

create function callora_guard_trim() returns trigger
language plpgsql as $$
begin
  if old.position > (select coalesce(max(last_position), 0) from journal_archives)
    or old.position > (select min(position) from projector_cursors) then
    raise exception 'usage_journal is trimmed behind archive and projector only'
      using errcode = 'integrity_constraint_violation';
  end if;
  return old;
end
$$;
create trigger usage_journal_guard before delete on usage_journal
for each row execute function callora_guard_trim();

-- What dropped partitions of events came to. The owner writes it in the drop's transaction.
create table usage_partition_totals (
  received_month date not null,
  mode text not null check (mode in ('live', 'test')),
  events bigint not null,
  charged_nanos bigint not null,
  fee_nanos bigint not null,
  last_position bigint not null,
  dropped_at timestamptz not null default now(),
  primary key (received_month, mode)
);
select callora_reserve('usage_partition_totals');
grant select on usage_partition_totals to callora_worker;
