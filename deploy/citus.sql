-- Notes for Citus (distributed PostgreSQL), for when one PostgreSQL is not enough. Nothing here is
-- needed before that, and the server has not been run on Citus. What these notes say of Citus was tried
-- on Citus 13.2 with PostgreSQL 15: a coordinator and two workers.
--
-- What the schema does already, so that the door stays open:
--
-- * Every table of a tenant has `account_id text not null` in front of its keys and unique indexes. Citus
--   refuses a unique index without the distribution column.
-- * What is looked up by something else has a directory table of its own: api_key_directory (by key hash),
--   user_directory, email_directory, api_directory, api_slugs, sessions (by token hash).
-- * The tenant is set by the statement `set local app.account = '…'`, never by set_config(): Citus sends
--   statements on to its workers, function calls not, and row-level security would then show no rows.
-- * Money between two accounts passes `clearing` on both sides, so a hot path stays on one shard.
-- * No foreign key goes from one account to another.
--
-- What is to be done there, in the database that the migrations have made:

-- The workers must see the tenant of a transaction.
alter database callora set citus.propagate_set_commands = 'local';

-- Tables that are append-only have a trigger as their second lock, which Citus refuses on distributed
-- tables unless it is told otherwise. The rights of the roles are the first lock and hold without it.
alter database callora set citus.enable_unsafe_triggers = 'on';

-- By account, together, so that one account's rows are on one worker:
--
--   select create_distributed_table('accounts', 'account_id');
--   select create_distributed_table('usage_events', 'account_id', colocate_with => 'accounts');
--   … and so for each table that starts with account_id.
--
-- By the value that is looked up:
--
--   select create_distributed_table('api_key_directory', 'key_hash');
--
-- Everywhere the same, for joins: what every account reads (create_reference_table).
--
-- What has to change first: `select … for update [skip locked]` works only with the distribution column
-- fixed. The queues of leases and payouts are not fixed to an account, so they need to be kept on the
-- coordinator, as the journal and its cursor are, or to be given a shard of their own. LISTEN/NOTIFY and
-- advisory locks live on the coordinator, as they do on one machine.
