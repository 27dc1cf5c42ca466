import { Code, ConnectError } from "@connectrpc/connect";
import {
  Asset,
  BASE_FEE,
  Horizon,
  Keypair,
  Operation,
  TransactionBuilder,
} from "@stellar/stellar-sdk";
import {
  type GetEarningsResponse,
  type GetNetworkResponse,
  PayoutState,
  type Settlement,
  SettlementService,
  SettlementState,
  SettlementStateSchema,
} from "../../../gen/callora/settlement/v1/settlement_service_pb.ts";
import { nanosPerStroop, parseStroops } from "../../lib/money.ts";
import type { Clients } from "./clients.ts";
import type { Person } from "./market.ts";
import { expectSame, present } from "./report.ts";
import { waitFor, within } from "./wait.ts";

const chainTimeoutMs = 30_000;
const settleWait = { timeoutMs: 60_000, intervalMs: 250 };
const validSeconds = 60;

/** A payment that the chain has. */
export interface ChainPayment {
  hash: string;
  amountNanos: bigint;
}

/** The network that payouts are made on, as the server says. */
export function getNetwork({ connect }: Clients, person: Person): Promise<GetNetworkResponse> {
  return connect(SettlementService, person.token).getNetwork({});
}

/**
 * Make an account on the network that takes the asset, with the network's own SDK. Returns its
 * address.
 */
export async function openStellarAccount(network: GetNetworkResponse): Promise<string> {
  const server = horizon(network);
  const keypair = Keypair.random();
  const address = keypair.publicKey();
  await within(chainTimeoutMs, "friendbot", server.friendbot(address).call());
  const account = await within(chainTimeoutMs, "the account", server.loadAccount(address));
  const transaction = new TransactionBuilder(account, {
    fee: BASE_FEE,
    networkPassphrase: network.passphrase,
  })
    .addOperation(Operation.changeTrust({ asset: assetOf(network) }))
    .setTimeout(validSeconds)
    .build();
  transaction.sign(keypair);
  await within(chainTimeoutMs, "the trust line", server.submitTransaction(transaction));
  return address;
}

/** Set where the developer is paid, over gRPC. */
export async function setPayoutAddress(
  { grpc }: Clients,
  developer: Person,
  address: string,
): Promise<void> {
  const { setPayoutAddress: method } = SettlementService.method;
  const reply = await grpc(method, developer.token, { address });
  expectSame("the payout address", reply.address, address);
}

/**
 * Start a settlement run, after the one that is under way if there is one, and wait until it is
 * done.
 */
export async function settle({ connect }: Clients, admin: Person): Promise<Settlement> {
  const service = connect(SettlementService, admin.token);
  const started = await waitFor(
    "a settlement run of our own",
    async () => {
      try {
        const { settlement } = await service.runSettlement({});
        return { value: present("the run", settlement) };
      } catch (error) {
        if (error instanceof ConnectError && error.code === Code.FailedPrecondition) {
          return { seen: error.rawMessage };
        }
        throw error;
      }
    },
    settleWait,
  );
  return waitFor(
    `settlement ${started.id} in state DONE`,
    async () => {
      const { settlement } = await service.getSettlement({ settlementId: started.id });
      const run = present("the run", settlement);
      const seen = SettlementStateSchema.value[run.state]?.name ?? `${run.state}`;
      return run.state === SettlementState.DONE ? { value: run } : { seen };
    },
    settleWait,
  );
}

/** The developer's earnings, once nothing of them is on its way. */
export function waitPaid({ connect }: Clients, developer: Person): Promise<GetEarningsResponse> {
  return waitFor(
    "the developer's earnings with nothing in flight",
    async () => {
      const earnings = await connect(SettlementService, developer.token).getEarnings({});
      const seen = `${earnings.inFlightNanos} nanos in flight`;
      return earnings.inFlightNanos === 0n ? { value: earnings } : { seen };
    },
    settleWait,
  );
}

/** Find on the chain, with the network's own SDK, what the treasury paid to an address. */
export async function listChainPayments(
  network: GetNetworkResponse,
  address: string,
): Promise<ChainPayment[]> {
  const { records } = await within(
    chainTimeoutMs,
    "the payments of the account",
    horizon(network).payments().forAccount(address).order("asc").limit(200).call(),
  );
  return records.flatMap((record) =>
    record.type === "payment" &&
    record.transaction_successful &&
    record.from === network.treasuryAddress &&
    record.to === address &&
    record.asset_code === network.assetCode &&
    record.asset_issuer === network.assetIssuer
      ? [
          {
            hash: record.transaction_hash,
            amountNanos: parseStroops(record.amount) * nanosPerStroop,
          },
        ]
      : [],
  );
}

/**
 * Compare the run's payout to the developer with the chain. Another run may have paid it instead.
 */
export function checkPayout(
  { payouts }: Settlement,
  developer: Person,
  payments: readonly ChainPayment[],
): void {
  const payout = payouts.find(({ accountId }) => accountId === developer.accountId);
  if (payout === undefined) {
    return;
  }
  const { state, holdReason } = payout;
  expectSame("the payout", { state, holdReason }, { state: PayoutState.PAID, holdReason: "" });
  const onChain = payments.find(({ hash }) => hash === payout.transactionHash);
  expectSame("the payout on the chain", onChain?.amountNanos, payout.amountNanos);
}

function horizon({ horizonUrl }: GetNetworkResponse): Horizon.Server {
  return new Horizon.Server(horizonUrl, { allowHttp: horizonUrl.startsWith("http:") });
}

function assetOf({ assetCode, assetIssuer }: GetNetworkResponse): Asset {
  return new Asset(assetCode, assetIssuer);
}
