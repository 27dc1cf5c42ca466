drop table vaults;
drop table api_key_directory;
drop table api_keys;
-- The audit log uses the functions too. Rolled back in the other order, it takes them along.
do $$
begin
  if to_regclass('audit_logs') is null then
    drop function callora_refuse_change();
    drop function callora_reserve(regclass);
    drop function callora_isolate(regclass);
    drop function callora_account();
  end if;
end
$$;
-- The roles stay: they belong to the cluster, and other databases may use them.
revoke usage on schema public from callora_app, callora_worker;
