-- The three roles that Callora connects as, for a PostgreSQL of your own (15 or newer). Run it once,
-- as a superuser or as the server's administrator, in the database that Callora will use:
--
--   createdb callora
--   psql "$ADMIN_URL/callora" \
--     --set owner_password=… --set app_password=… --set worker_password=… --file deploy/roles.sql
--
-- It may be run again: existing roles get the passwords and are stripped of what they must not have.
-- Then:
--
--   DATABASE_MIGRATE_URL=postgres://callora_owner:…@host/callora     makes and changes tables
--   DATABASE_URL=postgres://callora_app:…@host/callora               serves one account at a time
--   DATABASE_WORKER_URL=postgres://callora_worker:…@host/callora     applies, pays, and serves admins
--
-- callora_app and callora_worker own nothing and cannot pass by row-level security. The rights on
-- tables are granted by the migrations.

\set ON_ERROR_STOP on

begin;

\set given :{?owner_password}:{?app_password}:{?worker_password}
select :'given' <> 'TRUETRUETRUE' as is_missing
\gset
\if :is_missing
  do $$ begin raise 'Cannot make the roles: set owner_password, app_password and worker_password'; end $$;
\endif

-- psql does not put its variables into a `do` block, so each statement is built and then run.
select format('create role %I', wanted)
from unnest(array['callora_owner', 'callora_app', 'callora_worker']) as wanted
where not exists (select from pg_roles where rolname = wanted)
\gexec

alter role callora_owner with login nocreatedb nocreaterole password :'owner_password';
alter role callora_app with login nocreatedb nocreaterole password :'app_password';
alter role callora_worker with login nocreatedb nocreaterole password :'worker_password';

-- The server refuses to start on a role that is a superuser or may pass by row-level security. Only a
-- superuser may take these from a role, so this is done only where it is needed.
select format('alter role %I with nosuperuser nobypassrls noreplication', rolname)
from pg_roles
where rolname in ('callora_owner', 'callora_app', 'callora_worker')
  and (rolsuper or rolbypassrls or rolreplication)
\gexec

-- Only the three may enter the database, and only the owner may make anything in it.
select format('revoke all on database %I from public', current_database())
\gexec
select format('grant all on database %I to callora_owner', current_database())
\gexec
select format('grant connect, temporary on database %I to callora_app, callora_worker', current_database())
\gexec
revoke create on schema public from public;
grant usage, create on schema public to callora_owner with grant option;
grant usage on schema public to callora_app, callora_worker;

commit;
