-- Double entry in nano-USDC (10^-9). A transfer takes from one kind of an account's money and adds to another, so
-- the books balance by construction. Money that goes from one account to another passes `clearing` on both sides;
-- the clearing of all accounts together is zero.

-- The balance rows. What each kind may not do is a check, so that no code can overdraw it.
create table ledger_accounts (
  account_id text not null,
  kind text not null,
  mode text not null check (mode in ('live', 'test')),
  debits_nanos bigint not null default 0 check (debits_nanos >= 0),
  credits_nanos bigint not null default 0 check (credits_nanos >= 0),
  primary key (account_id, kind, mode),
  constraint ledger_accounts_covered check (
    case
      -- What somebody holds cannot fall below nothing.
      when kind in ('consumer', 'lease_escrow', 'payable', 'in_flight', 'platform_fee', 'treasury_equity')
        then credits_nanos >= debits_nanos
      -- What somebody owes or spent, and what lies on the chain, cannot either.
      when kind in ('promotion_expense', 'chain', 'consumer_receivable', 'developer_receivable')
        then debits_nanos >= credits_nanos
      else kind = 'clearing'
    end
  )
);
select callora_isolate('ledger_accounts');
grant select on ledger_accounts to callora_app;
grant select, insert, update on ledger_accounts to callora_worker;

-- The movements. Never changed, never removed.
create table ledger_transfers (
  account_id text not null,
  id text not null check (id ~ '^trf_[0-9a-v]{26}$'),
  mode text not null check (mode in ('live', 'test')),
  debit_kind text not null,
  credit_kind text not null,
  amount_nanos bigint not null check (amount_nanos > 0),
  -- What caused it. One cause moves one pair of kinds once.
  source_type text not null,
  source_id text not null,
  created_at timestamptz not null default now(),
  primary key (account_id, id),
  unique (account_id, source_type, source_id, mode, debit_kind, credit_kind),
  check (debit_kind <> credit_kind)
);
create trigger ledger_transfers_no_update before update on ledger_transfers
for each row execute function callora_refuse_change();
create trigger ledger_transfers_no_delete before delete on ledger_transfers
for each row execute function callora_refuse_change();
create trigger ledger_transfers_no_truncate before truncate on ledger_transfers
for each statement execute function callora_refuse_change();
select callora_isolate('ledger_transfers');
grant select on ledger_transfers to callora_app;
grant select, insert on ledger_transfers to callora_worker;

-- Blocks of credit that a gateway process may spend from memory.
create table credit_leases (
  account_id text not null,
  id text not null check (id ~ '^lea_[0-9a-v]{26}$'),
  mode text not null check (mode in ('live', 'test')),
  holder text not null,
  amount_nanos bigint not null check (amount_nanos > 0),
  -- What applied events have taken from it.
  spent_nanos bigint not null default 0 check (spent_nanos between 0 and amount_nanos),
  -- active: events may name it. draining: no new event may; the remainder waits for those before the fence.
  state text not null default 'active' check (state in ('active', 'draining', 'closed')),
  shard integer not null,
  -- The last journal position that may name it. Null while active.
  fence bigint,
  created_at timestamptz not null default now(),
  expire_at timestamptz not null,
  primary key (account_id, id),
  check ((state = 'active') = (fence is null))
);
create index credit_leases_open on credit_leases (shard, state, expire_at) where state <> 'closed';
select callora_isolate('credit_leases');
grant select on credit_leases to callora_app;
grant select, insert, update on credit_leases to callora_worker;

-- What an account can spend. Runs with the rights of whoever asks.
create view credit_balances with (security_invoker = true) as
select
  account_id,
  mode,
  coalesce(sum(credits_nanos - debits_nanos) filter (where kind = 'consumer'), 0)::bigint as available_nanos,
  coalesce(sum(credits_nanos - debits_nanos) filter (where kind = 'lease_escrow'), 0)::bigint as reserved_nanos
from ledger_accounts
where kind in ('consumer', 'lease_escrow')
group by account_id, mode;
grant select on credit_balances to callora_app, callora_worker;
