drop index ledger_transfers_position;
drop index ledger_transfers_statement;
alter table ledger_transfers drop column position;
drop function callora_journal_position();
