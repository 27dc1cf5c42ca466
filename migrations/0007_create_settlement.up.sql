-- Payouts on Stellar.

-- Where each developer is paid.
create table payout_addresses (
  account_id text primary key,
  address text not null check (address ~ '^G[A-Z2-7]{55}$'),
  updated_at timestamptz not null default now()
);
select callora_isolate('payout_addresses');
grant select, insert, update on payout_addresses to callora_app;
grant select on payout_addresses to callora_worker;

-- One row for each run.
create table settlements (
  id text primary key check (id ~ '^stl_[0-9a-v]{26}$'),
  state text not null default 'running' check (state in ('running', 'done')),
  created_at timestamptz not null default now(),
  done_at timestamptz
);
-- One run at a time.
create unique index settlements_one_running on settlements (state) where state = 'running';
select callora_reserve('settlements');
grant select, insert, update on settlements to callora_worker;

-- One developer's share of a run, under the developer's account.
create table payouts (
  account_id text not null,
  id text not null check (id ~ '^pay_[0-9a-v]{26}$'),
  settlement_id text not null,
  address text not null,
  -- A multiple of 100: one stroop.
  amount_nanos bigint not null check (amount_nanos > 0 and amount_nanos % 100 = 0),
  state text not null check (state in ('in_flight', 'paid', 'held')),
  hold_reason text not null default '',
  transaction_hash text not null default '',
  created_at timestamptz not null default now(),
  primary key (account_id, id),
  unique (account_id, settlement_id)
);
create index payouts_settlement on payouts (settlement_id);
select callora_isolate('payouts');
grant select on payouts to callora_app;
grant select, insert, update on payouts to callora_worker;

-- A slot is one sequence number of one account on the chain: at most one transaction can ever use it. A payout stays
-- in its slot until the slot is closed, so that no retry can pay twice.
create table settlement_slots (
  channel text not null,
  sequence bigint not null,
  settlement_id text not null,
  state text not null default 'open' check (state in ('open', 'closed_paid', 'closed_failed', 'closed_foreign')),
  created_at timestamptz not null default now(),
  closed_at timestamptz,
  primary key (channel, sequence)
);
-- One open slot for each channel: the next sequence number is known only when it is closed.
create unique index settlement_slots_one_open on settlement_slots (channel) where state = 'open';
select callora_reserve('settlement_slots');
grant select, insert, update on settlement_slots to callora_worker;

create table settlement_slot_payouts (
  channel text not null,
  sequence bigint not null,
  payout_account_id text not null,
  payout_id text not null,
  released_at timestamptz,
  primary key (channel, sequence, payout_id)
);
-- One open slot for each payout.
create unique index settlement_slot_payouts_one_live on settlement_slot_payouts (payout_id)
where released_at is null;
select callora_reserve('settlement_slot_payouts');
grant select, insert, update on settlement_slot_payouts to callora_worker;

-- The signed envelopes of a slot. Stored before they are sent; never sent if they are not stored.
create table settlement_attempts (
  hash text primary key,
  channel text not null,
  sequence bigint not null,
  ordinal integer not null,
  envelope text not null,
  max_time bigint not null,
  sent_count integer not null default 0,
  last_reply text not null default '',
  created_at timestamptz not null default now(),
  unique (channel, sequence, ordinal)
);
select callora_reserve('settlement_attempts');
grant select, insert, update on settlement_attempts to callora_worker;
-- Which operation of an attempt pays whom.
create table settlement_attempt_payouts (
  hash text not null,
  operation_index integer not null,
  payout_account_id text not null,
  payout_id text not null,
  primary key (hash, operation_index)
);
select callora_reserve('settlement_attempt_payouts');
grant select, insert on settlement_attempt_payouts to callora_worker;
