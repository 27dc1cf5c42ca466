-- refuses-rows: usage_journal
revoke delete on usage_journal from callora_worker;
drop trigger usage_journal_no_truncate on usage_journal;
drop index usage_journal_order;
alter table usage_journal drop column codec, drop column body, drop column entries;
alter table usage_journal no force row level security;
alter table usage_journal disable trigger usage_journal_no_update;
delete from usage_journal;
alter table usage_journal enable trigger usage_journal_no_update;
alter table usage_journal add column events jsonb not null;
alter table usage_journal force row level security;
alter table projector_cursors no force row level security;
delete from projector_cursors where shard <> 0;
alter table projector_cursors force row level security;
alter table projector_cursors drop column holder, drop column fence, drop column lease_end;
create table journal_heads (
  shard integer primary key,
  position bigint not null default 0
);
alter table journal_head no force row level security;
insert into journal_heads (shard, position) select 0, position from journal_head;
drop table journal_head;
select callora_reserve('journal_heads');
grant select, update on journal_heads to callora_worker;
