import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { StrKey } from "@stellar/stellar-sdk/base";
import {
  type CheckConservationResponseSchema,
  PayoutState,
  RunSettlementResponseSchema,
  type SettlementService,
  SettlementState,
} from "../../gen/callora/settlement/v1/settlement_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import { invalidArgument, notFound } from "../rpc/errors.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import type { StellarNetwork } from "../stellar/network.ts";
import { startRun } from "./run.ts";
import {
  findSettlement,
  getEarnings,
  listPayouts,
  type PayoutRow,
  type SettlementRow,
  upsertAddress,
} from "./store.ts";

interface Deps {
  db: Database;
  network: StellarNetwork;
  /** The journal is applied up to this position. */
  watermark: (tx: Tx) => Promise<bigint>;
  /** Compares the ledger with the journal and the chain. */
  checkConservation: () => Promise<MessageInitShape<typeof CheckConservationResponseSchema>>;
  /** Closes the months that have ended: bills of them are made by the run. */
  closePeriods: (tx: Tx, settlementId: string, now: Date) => Promise<void>;
  /** Told that there is something to pay. */
  wake: () => void;
  now: () => Date;
}

/** The handlers of proto/callora/settlement/v1/settlement_service.proto. */
export function settlementService(deps: Deps): ServiceImpl<typeof SettlementService> {
  const { db, network, now } = deps;
  return {
    async runSettlement(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const retry = retryOf(ctx);
      const response = await db.platformTransaction(tenant, async (tx, audit) => {
        const scope = { accountId, retry, response: RunSettlementResponseSchema, audit };
        return once(tx, scope, async () => {
          const id = await startRun(tx, req.minimumNanos, now());
          await deps.closePeriods(tx, id, now());
          const settlement = await readSettlement(tx, id);
          audit.record(`settlement:${settlement.id}`);
          return { settlement };
        });
      });
      deps.wake();
      return response;
    },

    async getSettlement({ settlementId }) {
      const settlement = await db.systemTransaction((tx) => readSettlement(tx, settlementId));
      return { settlement };
    },

    async getEarnings(_req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const watermark = await db.systemTransaction(deps.watermark);
      const row = await db.tenantRead(accountId, (tx) => getEarnings(tx, accountId));
      return {
        creditedNanos: row.credited_nanos,
        payableNanos: row.payable_nanos,
        inFlightNanos: row.in_flight_nanos,
        paidNanos: row.paid_nanos,
        address: row.address,
        watermark,
      };
    },

    async setPayoutAddress({ address }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const problem = addressProblem(network, address);
      if (problem !== null) {
        throw invalidArgument([{ field: "address", description: problem }]);
      }
      await db.tenantTransaction(tenant, async (tx, audit) => {
        await upsertAddress(tx, accountId, address);
        audit.record(`payout_address:${address}`);
      });
      return { address };
    },

    getNetwork() {
      return {
        network: network.name,
        passphrase: network.passphrase,
        horizonUrl: network.horizonUrl,
        assetCode: network.asset.code,
        assetIssuer: network.asset.issuer,
        treasuryAddress: network.treasury.publicKey(),
      };
    },

    checkConservation: () => deps.checkConservation(),
  };
}

/** Money sent to the accounts that pay, or back to the issuer, would leave the books without reaching anybody. */
function addressProblem({ treasury, channel, asset }: StellarNetwork, address: string) {
  if (!StrKey.isValidEd25519PublicKey(address)) {
    return "must be a Stellar address with a valid checksum";
  }
  const own = [treasury.publicKey(), channel.publicKey(), asset.issuer];
  return own.includes(address) ? "must not be an account of the platform or the issuer" : null;
}

async function readSettlement(tx: Tx, id: string) {
  const settlement = await findSettlement(tx, id);
  if (settlement === null) {
    throw notFound("the settlement");
  }
  const payouts = await listPayouts(tx, id);
  return {
    id,
    createTime: timestampFromMs(settlement.created_at),
    state: stateOf[settlement.state],
    amountNanos: payouts.reduce((sum, payout) => sum + payout.amount_nanos, 0n),
    payouts: payouts.map(toPayout),
  };
}

const stateOf = {
  running: SettlementState.RUNNING,
  done: SettlementState.DONE,
} satisfies Record<SettlementRow["state"], SettlementState>;

const payoutStateOf = {
  in_flight: PayoutState.IN_FLIGHT,
  paid: PayoutState.PAID,
  held: PayoutState.HELD,
} satisfies Record<PayoutRow["state"], PayoutState>;

function toPayout(row: PayoutRow) {
  return {
    id: row.id,
    accountId: row.account_id,
    address: row.address,
    amountNanos: row.amount_nanos,
    state: payoutStateOf[row.state],
    transactionHash: row.transaction_hash,
    holdReason: row.hold_reason,
  };
}
