-- refuses-rows: ledger_transfers
drop view credit_balances;
drop table credit_leases;
drop table ledger_transfers;
drop table ledger_accounts;
