drop index usage_events_place;
create index usage_events_developer on usage_events (developer_account_id, position)
where mode = 'live';
