import { sql } from "slonik";

/**
 * Selected by a statement that locks what others need: the database ends the session of a process that is stopped
 * between this transaction's statements, so that its locks are held no longer than 2 s.
 */
export const briefHold = sql.fragment`
  set_config('idle_in_transaction_session_timeout', '2s', true) as hold
`;
