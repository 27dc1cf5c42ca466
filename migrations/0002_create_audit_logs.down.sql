-- refuses-rows: audit_logs
drop table audit_logs;
