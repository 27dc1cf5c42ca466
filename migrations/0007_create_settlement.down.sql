-- refuses-rows: payouts
drop table settlement_attempt_payouts;
drop table settlement_attempts;
drop table settlement_slot_payouts;
drop table settlement_slots;
drop table payouts;
drop table settlements;
drop table payout_addresses;
