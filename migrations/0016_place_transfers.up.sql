-- Where in the journal a transfer counts from: of usage its batch's last position, of others what was durable then.
create function callora_journal_position() returns bigint
language sql stable
return (select position from journal_head);

alter table ledger_transfers add column position bigint not null default 0;
alter table ledger_transfers no force row level security;
alter table ledger_transfers disable trigger ledger_transfers_no_update;
update ledger_transfers set position = split_part(split_part(source_id, ':', 2), '-', 2)::bigint
where source_type = 'usage';
alter table ledger_transfers enable trigger ledger_transfers_no_update;
alter table ledger_transfers force row level security;
alter table ledger_transfers alter column position set default callora_journal_position();
create index ledger_transfers_statement on ledger_transfers (account_id, mode, created_at, id);
create index ledger_transfers_position on ledger_transfers (account_id, mode, position);
