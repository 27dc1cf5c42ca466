alter table api_prices drop column sheet;
alter table api_upstreams drop column settings;
drop index apis_category;
alter table apis no force row level security;
update apis set state = 'draft' where state = 'unpublished';
alter table apis force row level security;
alter table apis
  drop constraint apis_state_check,
  add constraint apis_state_check check (state in ('draft', 'published')),
  drop column category;
