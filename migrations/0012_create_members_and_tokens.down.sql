drop table service_tokens;
drop table wallet_challenges;
drop table user_identities;
drop table api_token_directory;
drop table api_tokens;
drop table invitation_directory;
drop table invitations;
drop table member_directory;
drop table members;
revoke update on accounts from callora_app, callora_worker;
revoke delete on user_directory, email_directory from callora_worker;
alter table users
  drop column rate_limit_per_second,
  drop column rate_limit_burst;
