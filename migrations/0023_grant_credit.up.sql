-- Credit as it came in, grant by grant, and what became of each.

-- A new kind: credit that was taken back from a consumer and is to be paid back to him.
alter table ledger_accounts
  drop constraint ledger_accounts_covered,
  add constraint ledger_accounts_covered check (
    case
      -- What somebody holds cannot fall below nothing.
      when kind in (
        'consumer', 'lease_escrow', 'payable', 'in_flight', 'platform_fee', 'treasury_equity',
        'refund_payable'
      )
        then credits_nanos >= debits_nanos
      -- What somebody owes or spent, and what lies on the chain, cannot either.
      when kind in ('promotion_expense', 'chain', 'consumer_receivable', 'developer_receivable')
        then debits_nanos >= credits_nanos
      else kind = 'clearing'
    end
  );

-- What an account had after each transfer that it sees, available and set aside. Null: it sees it not.
alter table ledger_transfers add column balance_nanos bigint;
alter table ledger_transfers no force row level security;
alter table ledger_transfers disable trigger ledger_transfers_no_update;
with summed as (
  select account_id, id, debit_kind, credit_kind, source_type, sum(
    case when credit_kind in ('consumer', 'lease_escrow') then amount_nanos else 0 end
    - case when debit_kind in ('consumer', 'lease_escrow') then amount_nanos else 0 end
  ) over (partition by account_id, mode order by id) as balance
  from ledger_transfers
)
update ledger_transfers as transfer set balance_nanos = summed.balance
from summed
where transfer.account_id = summed.account_id and transfer.id = summed.id
  and summed.source_type in ('grant', 'usage', 'debt_recovery', 'correction')
  and (
    summed.debit_kind in ('consumer', 'lease_escrow', 'consumer_receivable')
    or summed.credit_kind in ('consumer', 'consumer_receivable')
  );
alter table ledger_transfers enable trigger ledger_transfers_no_update;
alter table ledger_transfers force row level security;
create index ledger_transfers_shown on ledger_transfers (account_id, mode, id)
where balance_nanos is not null;
create index ledger_transfers_shown_type on ledger_transfers (account_id, mode, source_type, id)
where balance_nanos is not null;

create table credit_grants (
  account_id text not null,
  id text not null check (id ~ '^grt_[0-9a-v]{26}$'),
  mode text not null check (mode in ('live', 'test')),
  kind text not null check (kind in ('promotion', 'purchase', 'adjustment', 'test')),
  amount_nanos bigint not null check (amount_nanos > 0),
  burned_nanos bigint not null default 0 check (burned_nanos >= 0),
  -- Expired or refunded.
  returned_nanos bigint not null default 0 check (returned_nanos >= 0),
  -- The lowest burns first.
  priority integer not null default 50 check (priority between 0 and 100),
  expire_at timestamptz,
  state text not null default 'open' check (state in ('open', 'expiring', 'closed')),
  purchase_id text not null default '',
  note text not null default '',
  created_at timestamptz not null,
  primary key (account_id, id),
  check (burned_nanos + returned_nanos <= amount_nanos)
);
create index credit_grants_order on credit_grants (account_id, mode, priority, expire_at, created_at, id)
where state <> 'closed';
create index credit_grants_expiry on credit_grants (expire_at)
where state <> 'closed' and expire_at is not null;

-- Which part of an account's charges burned which grant: [from, to) on the line of all its charges.
create table grant_burns (
  account_id text not null,
  mode text not null check (mode in ('live', 'test')),
  from_nanos bigint not null check (from_nanos >= 0),
  to_nanos bigint not null check (to_nanos > from_nanos),
  grant_id text not null,
  primary key (account_id, mode, from_nanos)
);

-- What corrections of an event burned of grants beyond that, or gave back to them.
create table grant_corrections (
  account_id text not null,
  correction_id text not null,
  grant_id text not null,
  event_position bigint not null,
  event_ordinal integer not null,
  -- Negative: given back.
  burned_nanos bigint not null check (burned_nanos <> 0),
  primary key (account_id, correction_id, grant_id)
);
create index grant_corrections_event
on grant_corrections (account_id, event_position, event_ordinal);

-- The grants so far, burned in the order in which they came, as was shown.
alter table ledger_transfers no force row level security;
alter table charge_totals no force row level security;
insert into credit_grants (
  account_id, id, mode, kind, amount_nanos, burned_nanos, state, created_at
)
select account_id, source_id, mode, 'promotion', amount_nanos, burned,
  case when burned = amount_nanos then 'closed' else 'open' end, created_at
from (
  select granted.*, least(amount_nanos, greatest(0, coalesce(charged_nanos, 0) - before)) as burned
  from (
    select account_id, mode, source_id, amount_nanos, created_at,
      (sum(amount_nanos) over (
        partition by account_id, mode order by created_at, id
      ) - amount_nanos)::bigint as before
    from ledger_transfers
    where debit_kind = 'clearing' and credit_kind = 'consumer' and source_type = 'grant'
  ) as granted
  left join charge_totals using (account_id, mode)
) as burned;
insert into grant_burns (account_id, mode, from_nanos, to_nanos, grant_id)
select account_id, mode, before, before + burned_nanos, id
from (
  select granted.*, (sum(granted.amount_nanos) over (
    partition by granted.account_id, granted.mode order by transfer.created_at, transfer.id
  ) - granted.amount_nanos)::bigint as before
  from credit_grants as granted
  join ledger_transfers as transfer on transfer.account_id = granted.account_id
    and transfer.source_id = granted.id and transfer.source_type = 'grant'
    and transfer.mode = granted.mode
    and transfer.debit_kind = 'clearing' and transfer.credit_kind = 'consumer'
) as burned
where burned_nanos > 0;
-- What came into an account's balance and left it in a UTC month, but for charges.
create table credit_months (
  account_id text not null,
  mode text not null check (mode in ('live', 'test')),
  month date not null check (extract(day from month) = 1),
  -- Granted and bought.
  granted_nanos bigint not null default 0 check (granted_nanos >= 0),
  -- By adjustments.
  given_nanos bigint not null default 0 check (given_nanos >= 0),
  taken_nanos bigint not null default 0 check (taken_nanos >= 0),
  expired_nanos bigint not null default 0 check (expired_nanos >= 0),
  refunded_nanos bigint not null default 0 check (refunded_nanos >= 0),
  primary key (account_id, mode, month)
);
insert into credit_months (account_id, mode, month, granted_nanos)
select account_id, mode, date_trunc('month', created_at at time zone 'UTC')::date,
  sum(amount_nanos)::bigint
from ledger_transfers
where debit_kind = 'clearing' and credit_kind = 'consumer' and source_type = 'grant'
group by 1, 2, 3;
alter table ledger_transfers force row level security;
alter table charge_totals force row level security;
select callora_isolate('credit_grants');
grant select on credit_grants to callora_app;
grant select, insert, update on credit_grants to callora_worker;
select callora_isolate('credit_months');
grant select on credit_months to callora_app;
grant select, insert, update on credit_months to callora_worker;
select callora_isolate('grant_burns');
grant select on grant_burns to callora_app;
grant select, insert, update on grant_burns to callora_worker;
select callora_isolate('grant_corrections');
grant select on grant_corrections to callora_app;
grant select, insert on grant_corrections to callora_worker;

-- Credit that was taken back by an administrator, and why.
create table credit_returns (
  account_id text not null,
  id text not null check (id ~ '^ret_[0-9a-v]{26}$'),
  mode text not null check (mode in ('live', 'test')),
  amount_nanos bigint not null check (amount_nanos > 0),
  -- Empty unless it is a refund of one.
  purchase_id text not null default '',
  note text not null,
  created_at timestamptz not null,
  primary key (account_id, id)
);
select callora_isolate('credit_returns');
grant select on credit_returns to callora_app;
grant select, insert on credit_returns to callora_worker;

create table credit_plans (
  id text primary key,
  name text not null,
  description text not null,
  price_nanos bigint not null check (price_nanos > 0),
  credit_nanos bigint not null check (credit_nanos > 0),
  bonus_nanos bigint not null default 0 check (bonus_nanos >= 0),
  rank integer not null,
  active boolean not null default true,
  -- What is paid is granted. The platform gives what a plan has beyond.
  check (credit_nanos + bonus_nanos >= price_nanos)
);
insert into credit_plans (id, name, description, price_nanos, credit_nanos, bonus_nanos, rank) values
  ('starter', 'Starter', '10 USDC of credit', 10000000000, 10000000000, 0, 1),
  ('pro', 'Pro', '100 USDC of credit, and 5 on top', 100000000000, 100000000000, 5000000000, 2),
  (
    'enterprise', 'Enterprise', '1,000 USDC of credit, and 100 on top',
    1000000000000, 1000000000000, 100000000000, 3
  );
select callora_reserve('credit_plans');
grant select on credit_plans to callora_worker;

create table credit_purchases (
  account_id text not null,
  id text not null check (id ~ '^pur_[0-9a-v]{26}$'),
  source text not null,
  mode text not null default 'live' check (mode = 'live'),
  plan_id text not null default '',
  price_nanos bigint not null check (price_nanos > 0),
  credit_nanos bigint not null check (credit_nanos > 0),
  bonus_nanos bigint not null default 0 check (bonus_nanos >= 0),
  state text not null default 'pending' check (state in ('pending', 'confirmed', 'expired')),
  paid_nanos bigint not null default 0 check (paid_nanos >= 0),
  refunded_nanos bigint not null default 0 check (refunded_nanos between 0 and paid_nanos),
  grant_id text not null default '',
  created_at timestamptz not null,
  expire_at timestamptz not null,
  confirmed_at timestamptz,
  primary key (account_id, id),
  check (credit_nanos + bonus_nanos >= price_nanos)
);
select callora_isolate('credit_purchases');
grant select, insert on credit_purchases to callora_app;
grant select, update on credit_purchases to callora_worker;

-- Whose a purchase is.
create table purchase_directory (
  purchase_id text primary key,
  account_id text not null
);
select callora_isolate('purchase_directory');
grant select, insert on purchase_directory to callora_app;
grant select on purchase_directory to callora_worker;

-- Confirmed payments, each once, matched to a purchase or not.
create table payment_events (
  source text not null,
  event_id text not null,
  account_id text not null default '',
  purchase_id text not null default '',
  amount_nanos bigint not null check (amount_nanos > 0),
  detail text not null default '',
  created_at timestamptz not null default now(),
  primary key (source, event_id)
);
select callora_reserve('payment_events');
grant select, insert on payment_events to callora_worker;

-- How far a source of payments is read.
create table payment_cursors (
  source text primary key,
  cursor text not null
);
select callora_reserve('payment_cursors');
grant select, insert, update on payment_cursors to callora_worker;
