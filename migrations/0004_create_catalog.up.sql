-- APIs that developers publish. Everybody may read a published one.
create table apis (
  account_id text not null,
  id text not null check (id ~ '^api_[0-9a-v]{26}$'),
  slug text not null,
  name text not null,
  description text not null default '',
  state text not null default 'draft' check (state in ('draft', 'published')),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (account_id, id)
);
create index apis_published on apis (id desc) where state = 'published';
select callora_isolate('apis');
create policy published on apis for select to callora_app using (state = 'published');
grant select, insert, update on apis to callora_app;
grant select on apis to callora_worker;

-- Whose an API is, by id and by slug.
create table api_directory (
  api_id text primary key,
  account_id text not null,
  slug text not null
);
select callora_isolate('api_directory');
grant select, insert on api_directory to callora_app;
grant select on api_directory to callora_worker;

create table api_slugs (
  slug text primary key,
  account_id text not null,
  api_id text not null
);
select callora_isolate('api_slugs');
grant select, insert on api_slugs to callora_app;
grant select on api_slugs to callora_worker;

-- Where the gateway sends calls. Only the developer may see it.
create table api_upstreams (
  account_id text not null,
  api_id text not null,
  url text not null,
  primary key (account_id, api_id)
);
select callora_isolate('api_upstreams');
grant select, insert, update on api_upstreams to callora_app;
grant select on api_upstreams to callora_worker;

-- Prices, in versions that never change: a charge names the one it used.
create table api_prices (
  account_id text not null,
  api_id text not null,
  version integer not null check (version > 0),
  call_nanos bigint not null check (call_nanos >= 0),
  fee_basis_points integer not null check (fee_basis_points between 0 and 10000),
  created_at timestamptz not null default now(),
  primary key (account_id, api_id, version)
);
create trigger api_prices_no_change before update or delete on api_prices
for each row execute function callora_refuse_change();
create trigger api_prices_no_truncate before truncate on api_prices
for each statement execute function callora_refuse_change();
select callora_isolate('api_prices');
create policy published on api_prices for select to callora_app using (
  exists (
    select from apis
    where apis.account_id = api_prices.account_id and apis.id = api_prices.api_id and apis.state = 'published'
  )
);
grant select, insert on api_prices to callora_app;
grant select on api_prices to callora_worker;
