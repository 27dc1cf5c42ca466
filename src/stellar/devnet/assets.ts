import type { xdr } from "@stellar/stellar-sdk/base";
import { addressOf } from "./envelope.ts";
import { type Account, amountMax, availableBalance, type TrustLine } from "./state.ts";

/** An issued asset, or null for XLM. */
export type Asset = { code: string; issuer: string } | null;

/** Read an asset. Pool shares are none. */
export function toAsset(asset: xdr.Asset): Asset {
  if (asset.type === "assetTypeNative") return null;
  const body = asset.type === "assetTypeCreditAlphanum4" ? asset.alphaNum4 : asset.alphaNum12;
  const code = Buffer.from(body.assetCode.value).toString("latin1").replace(/\0+$/, "");
  return { code, issuer: addressOf(body.issuer) };
}

/** Whether the code is one the network allows in its place. */
export function isValidAsset(asset: xdr.Asset): boolean {
  if (asset.type === "assetTypeNative") return true;
  const { code } = toAsset(asset) as { code: string };
  return asset.type === "assetTypeCreditAlphanum4"
    ? /^[A-Za-z0-9]{1,4}$/.test(code)
    : /^[A-Za-z0-9]{5,12}$/.test(code);
}

/** Name an asset as a key of trust lines. */
export function assetKey({ code, issuer }: { code: string; issuer: string }): string {
  return `${code}:${issuer}`;
}

/** Add to an account, or name what forbids it. The issuer takes back what it issued. */
export function receive(account: Account, asset: Asset, amount: bigint): Account | string {
  if (asset === null) {
    const balance = account.balance + amount;
    return balance > amountMax ? "op_line_full" : { ...account, balance };
  }
  if (asset.issuer === account.id) return account;
  const line = account.trustLines.get(assetKey(asset));
  if (!line) return "op_no_trust";
  if (!line.authorized) return "op_not_authorized";
  if (line.balance + amount > line.limit) return "op_line_full";
  return withTrustLine(account, { ...line, balance: line.balance + amount });
}

/** Take from an account, or name what forbids it. The issuer makes what it sends. */
export function spend(account: Account, asset: Asset, amount: bigint): Account | string {
  if (asset === null) {
    if (availableBalance(account) < amount) return "op_underfunded";
    return { ...account, balance: account.balance - amount };
  }
  if (asset.issuer === account.id) return account;
  const line = account.trustLines.get(assetKey(asset));
  if (!line) return "op_src_no_trust";
  if (!line.authorized) return "op_src_not_authorized";
  if (line.balance < amount) return "op_underfunded";
  return withTrustLine(account, { ...line, balance: line.balance - amount });
}

/** The account with a trust line added or replaced. */
export function withTrustLine(account: Account, line: TrustLine): Account {
  return { ...account, trustLines: new Map(account.trustLines).set(assetKey(line), line) };
}
