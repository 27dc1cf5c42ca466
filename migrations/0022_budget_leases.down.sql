-- refuses-rows: budgets
drop table balance_alerts;
drop table budget_periods;
drop table budgets;
drop index credit_leases_holder;
alter table credit_leases drop column budgets;
alter table api_keys drop column created_by;
