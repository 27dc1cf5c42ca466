import { randomBytes } from "node:crypto";
import { newId } from "../../src/lib/id.ts";

/** What a column holds, as the driver takes it. */
export type Value = string | number;

const id = (prefix: string) => newId(prefix, new Date());
const hash = () => `\\x${randomBytes(32).toString("hex")}`;
const text = () => randomBytes(12).toString("hex");
const now = "2026-01-01T00:00:00Z";

/** A row of an account for every table that belongs to accounts. A new table needs one. */
export const tenantRows: Readonly<Record<string, (account_id: string) => Record<string, Value>>> = {
  accounts: (account_id) => ({ account_id, name: "x" }),
  users: (account_id) => ({
    account_id,
    id: id("usr"),
    username: text(),
    role: "user",
  }),
  user_directory: (account_id) => ({ account_id, username: text(), user_id: id("usr") }),
  email_directory: (account_id) => ({ account_id, email: `${text()}@x`, user_id: id("usr") }),
  person_directory: (account_id) => ({ account_id, user_id: id("usr") }),
  sessions: (account_id) => ({
    account_id,
    id: id("ses"),
    token_hash: hash(),
    user_id: id("usr"),
    expire_at: "2100-01-01",
  }),
  idempotency_keys: (account_id) => ({
    account_id,
    method: "x",
    key: text(),
    request_hash: "x",
    response: "x",
  }),
  audit_logs: (account_id) => ({
    account_id,
    actor_user_id: "x",
    action: "x",
    resource: "x",
    outcome: "done",
    request_id: "x",
  }),
  api_keys: (account_id) => ({
    account_id,
    id: id("key"),
    user_id: "x",
    api_id: id("api"),
    mode: "live",
    prefix: "x",
    key_hash: hash(),
  }),
  api_key_directory: (account_id) => ({ account_id, key_hash: hash(), key_id: id("key") }),
  vaults: (account_id) => ({ account_id, network: text() }),
  apis: (account_id) => ({ account_id, id: id("api"), slug: text(), name: "x", state: "draft" }),
  api_directory: (account_id) => ({ account_id, api_id: id("api"), slug: text() }),
  api_slugs: (account_id) => ({ account_id, slug: text(), api_id: id("api") }),
  api_upstreams: (account_id) => ({ account_id, api_id: id("api"), url: "http://x" }),
  api_prices: (account_id) => ({
    account_id,
    api_id: id("api"),
    version: 1,
    call_nanos: 1,
    fee_basis_points: 1,
  }),
  ledger_accounts: (account_id) => ({ account_id, kind: "clearing", mode: "test" }),
  ledger_transfers: (account_id) => ({
    account_id,
    id: id("trf"),
    mode: "test",
    debit_kind: "a",
    credit_kind: "b",
    amount_nanos: 1,
    source_type: "x",
    source_id: text(),
  }),
  credit_leases: (account_id) => ({
    account_id,
    id: id("lea"),
    mode: "test",
    holder: "x",
    amount_nanos: 1,
    shard: 9,
    expire_at: "2100-01-01",
  }),
  usage_events: (account_id) => ({
    account_id,
    source: "x",
    id: text(),
    mode: "test",
    api_id: id("api"),
    developer_account_id: "x",
    endpoint: "x",
    status_code: 200,
    occurred_at: now,
    price_version: 1,
    charged_nanos: 1,
    shard: 9,
    position: 1,
    body_hash: "x",
  }),
  usage_rollups: (account_id) => ({
    account_id,
    mode: "test",
    api_id: id("api"),
    bucket: now,
    calls: 1,
    errors: 0,
    charged_nanos: 1,
  }),
  revenue_rollups: (account_id) => ({
    account_id,
    mode: "test",
    api_id: id("api"),
    endpoint: "x",
    consumer_account_id: "x",
    bucket: now,
    calls: 1,
    errors: 0,
    revenue_nanos: 1,
  }),
  revenue_totals: (account_id) => ({ account_id, mode: "test", fee_basis_points: 1 }),
  payout_addresses: (account_id) => ({ account_id, address: `G${"A".repeat(55)}` }),
  payouts: (account_id) => ({
    account_id,
    id: id("pay"),
    settlement_id: id("stl"),
    address: "x",
    amount_nanos: 100,
    state: "held",
  }),
};
