drop table processes;
drop table trust_epoch;
drop function callora_refuse_epoch();
