-- The processes that answer from memory, and how far each has heard what no longer holds.

-- Counts the announcements. Its row lock is held until the commit, so epochs are ordered as the commits are.
create table trust_epoch (
  only_row boolean primary key default true check (only_row),
  epoch bigint not null default 0
);
insert into trust_epoch default values;

-- What is announced twice under one epoch, or skips one, would be taken for what was heard before.
create function callora_refuse_epoch() returns trigger
language plpgsql as $$
begin
  if new.epoch is distinct from old.epoch + 1 then
    raise exception 'trust_epoch only counts up by one' using errcode = 'integrity_constraint_violation';
  end if;
  return new;
end
$$;
create trigger trust_epoch_counts before update on trust_epoch
for each row execute function callora_refuse_epoch();
create trigger trust_epoch_no_delete before delete on trust_epoch
for each row execute function callora_refuse_change();
create trigger trust_epoch_no_truncate before truncate on trust_epoch
for each statement execute function callora_refuse_change();

-- Whoever changes something announces it in the same transaction, whatever account it is for.
select callora_reserve('trust_epoch');
create policy announce_read on trust_epoch for select to callora_app using (true);
create policy announce on trust_epoch for update to callora_app using (true) with check (true);
grant select, update (epoch) on trust_epoch to callora_app, callora_worker;

-- One row for each process that may answer from memory.
create table processes (
  id uuid primary key,
  -- The last epoch up to which it has forgotten what no longer holds.
  acknowledged bigint not null,
  -- Counts its heartbeats: one that does not move for a lease is past its own deadline.
  beat bigint not null default 0,
  lease_end timestamptz not null,
  started_at timestamptz not null default now()
) with (fillfactor = 50);
select callora_reserve('processes');
grant select, insert, update, delete on processes to callora_worker;
