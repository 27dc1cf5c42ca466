drop table meter_uniques;
drop table meter_rollups;
drop table meter_groups;
drop table meters;
