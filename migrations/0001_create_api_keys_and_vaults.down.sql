drop table vaults;
drop table api_key_directory;
drop table api_keys;
drop function callora_refuse_change();
drop function callora_reserve(regclass);
drop function callora_isolate(regclass);
drop function callora_account();
-- The roles stay: they belong to the cluster, and other databases may use them.
revoke usage on schema public from callora_app, callora_worker;
