import type { Chain } from "./chain.ts";
import {
  type Account,
  authClawback,
  authImmutable,
  authRequired,
  authRevocable,
  subentryCount,
  type TrustLine,
} from "./state.ts";

/** An account as Horizon shows it. */
export function accountJson(account: Account, chain: Chain, base: string): object {
  const self = `${base}/accounts/${account.id}`;
  const list = (name: string) => ({
    href: `${self}/${name}{?cursor,limit,order}`,
    templated: true,
  });
  const { low, medium, high } = account.thresholds;
  return {
    _links: {
      self: { href: self },
      transactions: list("transactions"),
      operations: list("operations"),
      payments: list("payments"),
      effects: list("effects"),
      offers: list("offers"),
      trades: list("trades"),
      data: { href: `${self}/data/{key}`, templated: true },
    },
    id: account.id,
    account_id: account.id,
    sequence: account.sequence.toString(),
    ...(account.sequenceLedger > 0 && {
      sequence_ledger: account.sequenceLedger,
      sequence_time: account.sequenceTime.toString(),
    }),
    subentry_count: subentryCount(account),
    ...(account.homeDomain !== "" && { home_domain: account.homeDomain }),
    ...(account.inflationDestination !== "" && {
      inflation_destination: account.inflationDestination,
    }),
    last_modified_ledger: account.lastModified,
    last_modified_time: isoTime(chain.ledger(account.lastModified)?.closeTime ?? 0),
    thresholds: { low_threshold: low, med_threshold: medium, high_threshold: high },
    flags: {
      auth_required: (account.flags & authRequired) !== 0,
      auth_revocable: (account.flags & authRevocable) !== 0,
      auth_immutable: (account.flags & authImmutable) !== 0,
      auth_clawback_enabled: (account.flags & authClawback) !== 0,
    },
    balances: [...[...account.trustLines.values()].map(lineJson), nativeJson(account)],
    signers: [...account.signers, { key: account.id, weight: account.masterWeight }].map(
      ({ key, weight }) => ({ weight, key, type: "ed25519_public_key" }),
    ),
    data: Object.fromEntries(account.data),
    num_sponsoring: 0,
    num_sponsored: 0,
    paging_token: account.id,
  };
}

/** Stroops as a decimal with seven places. */
export function amountText(stroops: bigint): string {
  const digits = stroops.toString().padStart(8, "0");
  return `${digits.slice(0, -7)}.${digits.slice(-7)}`;
}

/** An asset as Horizon spreads it over fields. Null is XLM. */
export function assetJson(asset: { code: string; issuer: string } | null): object {
  if (asset === null) return { asset_type: "native" };
  return {
    asset_type: asset.code.length <= 4 ? "credit_alphanum4" : "credit_alphanum12",
    asset_code: asset.code,
    asset_issuer: asset.issuer,
  };
}

/** Seconds since 1970 as Horizon writes times. */
export function isoTime(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace(".000Z", "Z");
}

function lineJson(line: TrustLine): object {
  return {
    balance: amountText(line.balance),
    limit: amountText(line.limit),
    ...noLiabilities,
    last_modified_ledger: line.lastModified,
    is_authorized: line.authorized,
    is_authorized_to_maintain_liabilities: line.authorized,
    is_clawback_enabled: false,
    ...assetJson(line),
  };
}

function nativeJson(account: Account): object {
  return { balance: amountText(account.balance), ...noLiabilities, asset_type: "native" };
}

const noLiabilities = { buying_liabilities: "0.0000000", selling_liabilities: "0.0000000" };
