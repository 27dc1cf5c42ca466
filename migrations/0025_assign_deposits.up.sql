-- Payments that name no purchase are given to somebody.

alter table payment_events
  add column id text,
  -- When it was made, as its source says.
  add column paid_at timestamptz,
  -- When somebody said whose it is. Null: its purchase was named, or nobody has.
  add column assigned_at timestamptz;
alter table payment_events no force row level security;
update payment_events set id = 'dep_' || left(md5(source || ' ' || event_id), 26), paid_at = created_at;
alter table payment_events force row level security;
alter table payment_events
  alter column id set not null,
  alter column paid_at set not null,
  add constraint payment_events_id unique (id),
  add constraint payment_events_id_form check (id ~ '^dep_[0-9a-v]{26}$'),
  add constraint payment_events_owner check ((account_id = '') = (purchase_id = ''));
create index payment_events_unnamed on payment_events (id)
  where account_id = '' or assigned_at is not null;
grant update (account_id, purchase_id, assigned_at) on payment_events to callora_worker;
grant insert on credit_purchases, purchase_directory to callora_worker;
