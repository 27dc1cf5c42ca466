revoke insert on credit_purchases, purchase_directory from callora_worker;
revoke update (account_id, purchase_id, assigned_at) on payment_events from callora_worker;
drop index payment_events_unnamed;
alter table payment_events
  drop constraint payment_events_owner,
  drop constraint payment_events_id_form,
  drop constraint payment_events_id,
  drop column assigned_at,
  drop column paid_at,
  drop column id;
