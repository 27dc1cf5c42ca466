-- Who changed what, or was refused. Appended in the transaction of the change.
create table audit_logs (
  account_id text not null,
  id bigint generated always as identity,
  actor_user_id text not null,
  action varchar(64) not null,
  resource text not null,
  detail text not null default '',
  outcome text not null check (outcome in ('done', 'refused')),
  ip inet,
  request_id text not null,
  created_at timestamptz not null default now(),
  primary key (account_id, id)
);
create index audit_logs_actor on audit_logs (account_id, actor_user_id, created_at desc);
create index audit_logs_action on audit_logs (account_id, action, created_at desc);
create index audit_logs_resource on audit_logs (account_id, resource, created_at desc);

create trigger audit_logs_no_update before update on audit_logs
for each row execute function callora_refuse_change();
create trigger audit_logs_no_delete before delete on audit_logs
for each row execute function callora_refuse_change();
create trigger audit_logs_no_truncate before truncate on audit_logs
for each statement execute function callora_refuse_change();

select callora_isolate('audit_logs');
grant select, insert on audit_logs to callora_app, callora_worker;
