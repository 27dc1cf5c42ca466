-- refuses-rows: usage_corrections
drop table usage_corrections;
revoke update on usage_quarantine from callora_worker;
drop index usage_quarantine_account;
drop index usage_quarantine_open;
alter table usage_quarantine no force row level security;
delete from usage_quarantine where event is null;
alter table usage_quarantine force row level security;
alter table usage_quarantine
  drop column raw,
  drop column detail,
  drop column charged_nanos,
  drop column mode,
  drop column state,
  drop column replay_position,
  drop column closed_reason,
  drop column closed_at,
  alter column event set not null;
