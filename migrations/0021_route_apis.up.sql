-- What the gateway knows of an API beyond its address and the price of a call.

alter table apis
  add column category text not null default '' check (category ~ '^[a-z0-9-]{0,50}$'),
  drop constraint apis_state_check,
  add constraint apis_state_check check (state in ('draft', 'published', 'unpublished'));
create index apis_category on apis (category, id desc) where state = 'published';

-- callora.catalog.v1.ApiSettings as JSON. Empty: as before there were any.
alter table api_upstreams
  add column settings text not null default '' check (octet_length(settings) <= 65536);

-- The whole price sheet of a version: the default rule and the routes, canonical JSON. Empty: call_nanos alone.
alter table api_prices
  add column sheet text not null default '' check (octet_length(sheet) <= 262144);
