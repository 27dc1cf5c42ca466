-- refuses-rows: invoices
drop table invoice_retries;
alter table charge_totals drop column corrected_nanos;
drop table invoice_rounds;
drop table invoices;
drop table billing_baseline;
drop table billing_lines;
alter table usage_events drop column units_before, drop column outcome;
