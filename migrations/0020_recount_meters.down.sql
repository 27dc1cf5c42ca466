drop index usage_quarantine_event;
alter table usage_quarantine drop column event_key;
drop table meter_recounts;
