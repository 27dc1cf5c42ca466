import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  GrantKind as GrantKindValue,
  PurchaseState,
  TransactionType,
} from "../../gen/callora/credits/v1/credit_service_pb.ts";
import type { Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import type { GrantKind } from "./credit.ts";
import { type GrantRow, sumGrants } from "./grant-store.ts";
import type { PlanRow } from "./plan-store.ts";
import type { PaymentSource } from "./purchase.ts";
import type { PurchaseRow } from "./purchase-store.ts";
import { getBalance, type SourceType, type TransactionRow } from "./store.ts";

const types: Readonly<Record<SourceType, TransactionType>> = {
  grant: TransactionType.GRANT,
  usage: TransactionType.CHARGE,
  purchase: TransactionType.PURCHASE,
  expiry: TransactionType.EXPIRY,
  refund: TransactionType.REFUND,
  adjustment: TransactionType.ADJUSTMENT,
  debt_recovery: TransactionType.REPAYMENT,
  correction: TransactionType.CORRECTION,
};

/** What transactions of a type come from. Null: of any type. */
export function sourceTypeOf(type: TransactionType): SourceType | null {
  const found = Object.entries(types).find(([, one]) => one === type);
  return found === undefined ? null : (found[0] as SourceType);
}

/** An account's balance as it is shown. */
export async function showBalance(tx: Tx, accountId: string, mode: Mode) {
  const row = await getBalance(tx, accountId, mode);
  const left = await sumGrants(tx, { accountId, mode });
  const there = row.available_nanos + row.reserved_nanos;
  // What was spent after a grant's end is still in it until it is taken back.
  const promotional = left.promotional_nanos < there ? left.promotional_nanos : there;
  return {
    availableNanos: row.available_nanos,
    reservedNanos: row.reserved_nanos,
    grantedNanos: row.granted_nanos,
    chargedNanos: row.charged_nanos,
    owedNanos: row.owed_nanos,
    promotionalNanos: promotional,
    ...timeOf("nextExpireTime", left.next_expire_at),
    nextExpireNanos: left.next_expire_nanos,
  };
}

/** A transaction as it is shown. */
export function toTransaction(row: TransactionRow) {
  const isIncoming = row.debit_kind === "clearing";
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    type: types[row.source_type as SourceType] ?? TransactionType.UNSPECIFIED,
    amountNanos: isIncoming ? row.amount_nanos : -row.amount_nanos,
    source: `${row.source_type}:${row.source_id}`,
    description: row.description,
    balanceNanos: row.balance_nanos,
    grantId: row.grant_id,
  };
}

const kinds: Readonly<Record<GrantKind, GrantKindValue>> = {
  promotion: GrantKindValue.PROMOTION,
  purchase: GrantKindValue.PURCHASE,
  adjustment: GrantKindValue.ADJUSTMENT,
  test: GrantKindValue.TEST,
};

/** A grant as it is shown. */
export function toGrant(row: GrantRow) {
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    kind: kinds[row.kind],
    amountNanos: row.amount_nanos,
    burnedNanos: row.burned_nanos,
    returnedNanos: row.returned_nanos,
    priority: row.priority,
    ...timeOf("expireTime", row.expire_at),
    note: row.note,
    purchaseId: row.purchase_id,
    test: row.mode === "test",
  };
}

/** A plan as it is shown. */
export function toPlan(row: PlanRow) {
  return {
    id: row.id,
    name: row.name,
    description: row.description,
    priceNanos: row.price_nanos,
    creditNanos: row.credit_nanos,
    bonusNanos: row.bonus_nanos,
  };
}

const states = {
  pending: PurchaseState.PENDING,
  confirmed: PurchaseState.CONFIRMED,
} as const;

/** A purchase as it is shown, with where to pay for it. */
export function toPurchase(
  row: PurchaseRow,
  { sources, now }: { sources: readonly PaymentSource[]; now: Date },
) {
  const priceNanos = row.price_nanos;
  const source = sources.find(({ name }) => name === row.source);
  const opened = source?.open({ id: row.id, accountId: row.account_id, priceNanos });
  const isExpired = row.state === "pending" && row.expire_at <= now.getTime();
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    state: isExpired ? PurchaseState.EXPIRED : states[row.state],
    source: row.source,
    planId: row.plan_id,
    priceNanos,
    creditNanos: row.credit_nanos,
    bonusNanos: row.bonus_nanos,
    paidNanos: row.paid_nanos,
    ...(opened !== undefined && "address" in opened ? { deposit: opened } : {}),
    ...timeOf("confirmTime", row.confirmed_at),
    expireTime: timestampFromMs(row.expire_at),
    grantId: row.grant_id,
    refundedNanos: row.refunded_nanos,
  };
}

/** A time under its name, or nothing. */
function timeOf<Name extends string>(name: Name, ms: number | null) {
  return (ms === null ? {} : { [name]: timestampFromMs(ms) }) as {
    [key in Name]?: ReturnType<typeof timestampFromMs>;
  };
}
