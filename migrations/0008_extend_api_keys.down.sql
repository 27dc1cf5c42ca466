drop table router_key_directory;
drop table router_keys;
drop function callora_next_refill(text, integer, timestamptz);
drop table key_quotas;
-- Fails while a key is being replaced, or opens every API: such keys have no place in what was before.
drop index api_keys_family;
drop index api_keys_one_live;
create unique index api_keys_one_live on api_keys (account_id, api_id, mode) where revoked_at is null;
alter table api_keys
  drop constraint api_keys_scopes_check,
  drop column deleted_at,
  drop column rotate_until,
  drop column rotated_to,
  drop column updated_at,
  drop column metadata,
  drop column rate_limit_per_day,
  drop column allowed_cidrs,
  drop column state,
  drop column family_id,
  alter column api_id set not null;
