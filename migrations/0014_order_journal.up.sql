-- One order for all shards: a position says which of two events was durable first.
create table journal_head (
  only_row boolean primary key default true check (only_row),
  position bigint not null default 0
) with (fillfactor = 10);
alter table journal_heads no force row level security;
insert into journal_head (position) select coalesce(max(position), 0) from journal_heads;
drop table journal_heads;

-- Rows hold bytes: codec 1 is callora.metering.v1.JournalRow, 0 the JSON text of earlier versions.
alter table usage_journal
  add column codec smallint not null default 1 check (codec in (0, 1)),
  add column body bytea,
  add column entries integer not null default 0 check (entries >= 0);
alter table usage_journal no force row level security;
alter table usage_journal disable trigger usage_journal_no_update;
update usage_journal set
  codec = 0,
  body = convert_to(events::text, 'UTF8'),
  entries = case when jsonb_typeof(events) = 'array' then jsonb_array_length(events) else 1 end;
alter table usage_journal enable trigger usage_journal_no_update;
alter table usage_journal force row level security;
alter table usage_journal drop column events, alter column body set not null;
alter table usage_journal alter column body set storage external;
create unique index usage_journal_order on usage_journal (position);
create trigger usage_journal_no_truncate before truncate on usage_journal
for each statement execute function callora_refuse_change();
-- A trigger of 0019 lets only go what is archived and applied.
grant delete on usage_journal to callora_worker;

-- Who applies a shard. The fence counts its holders: whoever has an older one applies nothing more.
alter table projector_cursors
  add column holder uuid,
  add column fence bigint not null default 0,
  add column lease_end timestamptz not null default '-infinity';
-- The new shard has no rows before the head.
alter table projector_cursors no force row level security;
insert into projector_cursors (shard, position) select 1, position from journal_head;
alter table projector_cursors force row level security;

select callora_reserve('journal_head');
grant select, update (position) on journal_head to callora_worker;
