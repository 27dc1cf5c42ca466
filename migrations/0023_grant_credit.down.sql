-- refuses-rows: credit_purchases, payment_events, credit_returns
drop table payment_cursors;
drop table payment_events;
drop table purchase_directory;
drop table credit_purchases;
drop table credit_plans;
drop table credit_returns;
drop table credit_months;
drop table grant_corrections;
drop table grant_burns;
drop table credit_grants;
drop index ledger_transfers_shown_type;
drop index ledger_transfers_shown;
alter table ledger_transfers drop column balance_nanos;
-- Fails while something is to be paid back.
alter table ledger_accounts
  drop constraint ledger_accounts_covered,
  add constraint ledger_accounts_covered check (
    case
      when kind in ('consumer', 'lease_escrow', 'payable', 'in_flight', 'platform_fee', 'treasury_equity')
        then credits_nanos >= debits_nanos
      when kind in ('promotion_expense', 'chain', 'consumer_receivable', 'developer_receivable')
        then debits_nanos >= credits_nanos
      else kind = 'clearing'
    end
  );
