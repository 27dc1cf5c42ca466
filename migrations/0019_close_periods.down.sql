-- refuses-rows: periods, journal_archives, usage_partition_totals
drop table usage_partition_totals;
drop trigger usage_journal_guard on usage_journal;
drop function callora_guard_trim();
drop table journal_archives;
-- Without a closed period every row is booked in its own month, so the shorter key still is one.
alter table revenue_rollups
  drop constraint revenue_rollups_pkey,
  drop column booked_month,
  add primary key (account_id, mode, api_id, bucket, endpoint, consumer_account_id);
alter table usage_rollups
  drop constraint usage_rollups_pkey,
  drop column booked_month,
  add primary key (account_id, mode, api_id, bucket);
drop table periods;
