-- What becomes of events that could not be applied, and what corrected those that were.

-- `raw` is a JournalRow of the one entry, or the bytes as they came of what cannot be read. Rows of earlier versions
-- have `event` instead.
alter table usage_quarantine
  add column raw bytea,
  add column detail text not null default '',
  add column charged_nanos bigint not null default 0,
  add column mode text not null default 'live',
  add column state text not null default 'open' check (state in ('open', 'replayed', 'dismissed')),
  add column replay_position bigint,
  add column closed_reason text not null default '',
  add column closed_at timestamptz,
  alter column event drop not null;
alter table usage_quarantine no force row level security;
update usage_quarantine set charged_nanos = (event->>'charged')::bigint, mode = event->>'mode'
where reason = 'CONFLICT';
alter table usage_quarantine force row level security;
create index usage_quarantine_open on usage_quarantine (position desc, ordinal desc)
where state = 'open';
create index usage_quarantine_account on usage_quarantine (account_id, position);
grant update on usage_quarantine to callora_worker;

-- Never changed, never removed: they refer to events, which are never changed either.
create table usage_corrections (
  account_id text not null,
  id text not null check (id ~ '^cor_[0-9a-v]{26}$'),
  event_key text collate "C" not null,
  event_position bigint not null,
  event_ordinal integer not null,
  is_void boolean not null,
  mode text not null check (mode in ('live', 'test')),
  developer_account_id text not null,
  api_id text not null,
  bucket timestamptz not null,
  booked_month date not null,
  delta_nanos bigint not null,
  delta_fee_nanos bigint not null,
  reason text not null,
  shard integer not null,
  position bigint not null,
  ordinal integer not null,
  created_at timestamptz not null,
  primary key (account_id, id)
);
create unique index usage_corrections_one_void
on usage_corrections (account_id, event_position, event_ordinal) where is_void;
create index usage_corrections_event
on usage_corrections (account_id, event_position, event_ordinal);
create trigger usage_corrections_no_update before update on usage_corrections
for each row execute function callora_refuse_change();
create trigger usage_corrections_no_delete before delete on usage_corrections
for each row execute function callora_refuse_change();
create trigger usage_corrections_no_truncate before truncate on usage_corrections
for each statement execute function callora_refuse_change();
select callora_isolate('usage_corrections');
grant select on usage_corrections to callora_app;
grant select, insert on usage_corrections to callora_worker;
