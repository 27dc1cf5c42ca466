drop table api_prices;
drop table api_upstreams;
drop table api_slugs;
drop table api_directory;
drop table apis;
