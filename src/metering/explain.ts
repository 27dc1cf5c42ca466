import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  FundingKind,
  type MeteringService,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { type Outcome, outcomes } from "../catalog/price-rule.ts";
import { ruleTextOf } from "../catalog/sheet-rule.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { readSnapshot } from "../db/snapshot.ts";
import { notFound } from "../rpc/errors.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import type { Pinned } from "./entry.ts";
import {
  type ChargeRow,
  type EventCorrectionRow,
  findBurned,
  findCharge,
  findPrice,
  listBatchTransfers,
  listCorrections,
  listCorrectionTransfers,
  readUsage,
  type TransferRow,
} from "./explain-store.ts";
import { getWatermark } from "./journal.ts";
import { toEvent } from "./look-up.ts";
import { lineOf, type Rated, rate, rateEntry, ratingLine } from "./rate.ts";
import { findEvent } from "./store.ts";

/** The handler that explains what an event cost. */
export function explainMethods({
  db,
}: {
  db: Database;
}): Pick<ServiceImpl<typeof MeteringService>, "explainCharge"> {
  return {
    explainCharge({ source, id }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      // The journal belongs to no account: only the server's own role reads it.
      return db.systemTransaction(async (tx) => {
        await readSnapshot(tx);
        const named = { accountId, source, id };
        const [event, charge] = [await findEvent(tx, named), await findCharge(tx, named)];
        if (event === null || charge === null) {
          throw notFound("the event");
        }
        const corrections = await listCorrections(tx, { accountId, ...charge });
        const correctedNanos = corrections.reduce((sum, one) => sum + one.delta_nanos, 0n);
        return {
          event: { ...toEvent(event), correctedNanos },
          rating: await explainRating(tx, named, charge),
          funding: await explainFunding(tx, accountId, charge),
          entries: [
            ...(await listShares(tx, accountId, charge)),
            ...(await listCorrectionEntries(tx, accountId, corrections)),
          ],
          corrections: corrections.map(toCorrection),
          watermark: (await getWatermark(tx)).applied,
        };
      });
    },
  };
}

/** Rates the journal's entry again; once it is removed, the stored event by the price of its version. */
async function explainRating(
  tx: Tx,
  { accountId: account, source, id }: { accountId: string; source: string; id: string },
  charge: ChargeRow,
) {
  const { mode, price_version: version, units, charged_nanos: chargedNanos } = charge;
  const { fee_nanos: feeNanos, booked_month: bookedMonth, units_before: unitsBefore } = charge;
  const parts = {
    ...{ account, source, id, mode, version, units, chargedNanos, feeNanos, bookedMonth },
    outcome: outcomeOf(charge),
    unitsBefore,
  };
  const entry = await readUsage(tx, charge);
  const price = entry === null ? await findPinned(tx, charge) : entry.price;
  const rated = entry === null ? rateStored(price, charge) : rateEntry(entry);
  const line =
    entry === null ? lineOf({ ...parts, ...rated }) : ratingLine({ entry, feeNanos, bookedMonth });
  return {
    priceVersion: version,
    model: rated.model,
    units: rated.units,
    tiers: rated.tiers,
    chargedNanos,
    feeNanos,
    feeBasisPoints: charge.fee_basis_points,
    reproduced: line === lineOf(parts),
    rule: price.rule,
    unitsBefore,
  };
}

function outcomeOf({ outcome }: ChargeRow): Outcome {
  return outcomes[outcome] ?? "whole";
}

function rateStored(price: Pinned, charge: ChargeRow): Rated {
  return rate(price, {
    units: charge.units,
    status: charge.status_code,
    outcome: outcomeOf(charge),
    unitsBefore: charge.units_before,
  });
}

/** The price of the version that was charged, as far as it is known without the journal's entry. */
async function findPinned(tx: Tx, charge: ChargeRow): Promise<Pinned> {
  const named = {
    apiId: charge.api_id,
    developerId: charge.developer_account_id,
    version: charge.price_version,
  };
  const price = await findPrice(tx, named);
  return {
    ...named,
    feeBasisPoints: charge.fee_basis_points,
    unitNanos: price?.call_nanos ?? 0n,
    rule: price === null ? "" : ruleTextOf(price.sheet, charge.endpoint),
  };
}

/** Lease, balance and debt add up to the charge. Grants tell what of it each of them gave. */
async function explainFunding(tx: Tx, accountId: string, charge: ChargeRow) {
  const { charged_nanos: nanos, leased_nanos: leased, owed_nanos: owed, mode } = charge;
  const from = charge.charged_before_nanos;
  const burned = await findBurned(tx, { accountId, mode, from, to: from + nanos });
  const paid = [
    { kind: FundingKind.LEASE, sourceId: charge.lease_id ?? "", amountNanos: leased },
    { kind: FundingKind.BALANCE, sourceId: "", amountNanos: nanos - leased - owed },
    { kind: FundingKind.RECEIVABLE, sourceId: "", amountNanos: owed },
  ];
  const grants = burned.map(({ source_id, nanos: amountNanos }) => ({
    kind: FundingKind.GRANT,
    sourceId: source_id,
    amountNanos,
  }));
  return [...paid, ...grants].filter(({ amountNanos }) => amountNanos > 0n);
}

async function listShares(tx: Tx, accountId: string, charge: ChargeRow) {
  const { mode, shard, batch_position: position } = charge;
  const { charged_nanos: nanos, leased_nanos: leased, owed_nanos: owed } = charge;
  const shares: Readonly<Record<string, bigint>> = {
    lease_escrow: leased,
    consumer: nanos - leased - owed,
    consumer_receivable: owed,
  };
  const transfers = await listBatchTransfers(tx, { accountId, mode, shard, position });
  return transfers.flatMap((row) => {
    const shareNanos = shares[row.debit_kind] ?? 0n;
    return shareNanos === 0n ? [] : [toEntry(row, shareNanos)];
  });
}

async function listCorrectionEntries(
  tx: Tx,
  accountId: string,
  corrections: readonly EventCorrectionRow[],
) {
  const ids = corrections.map(({ id }) => id);
  const transfers = ids.length === 0 ? [] : await listCorrectionTransfers(tx, { accountId, ids });
  return transfers.map((row) => toEntry(row, row.amount_nanos));
}

function toEntry(row: TransferRow, shareNanos: bigint) {
  return {
    transferId: row.id,
    debitKind: row.debit_kind,
    creditKind: row.credit_kind,
    amountNanos: row.amount_nanos,
    shareNanos,
  };
}

function toCorrection(row: EventCorrectionRow) {
  return {
    id: row.id,
    void: row.is_void,
    deltaNanos: row.delta_nanos,
    reason: row.reason,
    position: row.position,
    createTime: timestampFromMs(row.created_at),
  };
}
