-- refuses-rows: audit_logs
drop table audit_logs;
-- Rolled back after 0001: nothing needs its functions any more.
do $$
begin
  if to_regclass('api_keys') is null then
    drop function callora_refuse_change();
    drop function callora_reserve(regclass);
    drop function callora_isolate(regclass);
    drop function callora_account();
  end if;
end
$$;
