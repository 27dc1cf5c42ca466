-- Sums of meters that are counted anew, and the identity of what is kept aside.

-- Quarters of an hour of which an event was taken back that made the least, greatest, latest or a different value. The
-- meters' loop reads the events that are left, page by page.
create table meter_recounts (
  account_id text not null,
  meter_id text not null,
  mode text not null check (mode in ('live', 'test')),
  bucket timestamptz not null,
  -- The last event that was read, and whose. Null before the first page.
  read_account text collate "C",
  read_at timestamptz,
  read_position bigint,
  read_ordinal integer,
  primary key (account_id, meter_id, mode, bucket)
);
select callora_isolate('meter_recounts');
grant select on meter_recounts to callora_app;
grant select, insert, update, delete on meter_recounts to callora_worker;

-- <bytes of source>:<source><id>, as of applied events. Null: of what cannot be read, of corrections, of old rows.
alter table usage_quarantine add column event_key text collate "C";
create index usage_quarantine_event on usage_quarantine (account_id, event_key)
where state = 'open' and reason <> 'CONFLICT';
