import type { xdr } from "@stellar/stellar-sdk/base";
import { assetKey, isValidAsset, receive, spend, toAsset, withTrustLine } from "./assets.ts";
import { accountOf, addressOf } from "./envelope.ts";
import type { BodyOf, OperationContext, Rule } from "./operation-rule.ts";
import {
  authRequired,
  authRevocable,
  availableBalance,
  baseReserve,
  minBalance,
  newAccount,
  subentriesMax,
  subentryCount,
} from "./state.ts";

type Kind = "createAccount" | "payment" | "changeTrust" | "setTrustLineFlags";

const authorizedFlag = 1;

/** Operations that move or hold assets. */
export const paymentRules: { [K in Kind]: Rule<K> } = {
  createAccount: {
    level: () => "medium",
    check({ createAccountOp: { destination, startingBalance } }, source) {
      const isValid = startingBalance >= 0n && addressOf(destination) !== source;
      return isValid ? "op_success" : "op_malformed";
    },
    apply({ createAccountOp: { destination, startingBalance } }, context) {
      const id = addressOf(destination);
      if (context.accounts.get(id)) return "op_already_exists";
      if (startingBalance < 2n * baseReserve) return "op_low_reserve";
      if (availableBalance(context.source) < startingBalance) return "op_underfunded";
      context.save({ ...context.source, balance: context.source.balance - startingBalance });
      context.save(newAccount(id, startingBalance, context.ledger));
      return "op_success";
    },
  },
  payment: {
    level: () => "medium",
    check: ({ paymentOp: { amount, asset } }) =>
      amount > 0n && isValidAsset(asset) ? "op_success" : "op_malformed",
    apply: applyPayment,
  },
  changeTrust: {
    level: () => "medium",
    check({ changeTrustOp: { line, limit } }, source) {
      if (line.type === "assetTypePoolShare") return "op_not_supported";
      const asset = toAsset(line as xdr.Asset);
      if (asset === null || !isValidAsset(line as xdr.Asset)) return "op_malformed";
      return limit < 0n || asset.issuer === source ? "op_malformed" : "op_success";
    },
    apply: applyChangeTrust,
  },
  setTrustLineFlags: {
    level: () => "low",
    check({ setTrustLineFlagsOp: { trustor, asset, clearFlags, setFlags } }, source) {
      const issued = toAsset(asset);
      if (issued?.issuer !== source || addressOf(trustor) === source) return "op_malformed";
      if (!isValidAsset(asset) || (setFlags & clearFlags) !== 0) return "op_malformed";
      return (setFlags | clearFlags) & ~authorizedFlag ? "op_not_supported" : "op_success";
    },
    apply: applySetTrustLineFlags,
  },
};

/** The side that receives is judged first: the code names the payee's fault before the payer's. */
function applyPayment({ paymentOp }: BodyOf<"payment">, context: OperationContext): string {
  const { source, accounts, save } = context;
  const { amount } = paymentOp;
  const asset = toAsset(paymentOp.asset);
  const destination = accountOf(paymentOp.destination);
  if (destination === source.id && asset === null) return "op_success";
  // An asset can go back to its issuer even where the issuer's account is gone.
  if (asset?.issuer !== destination) {
    const payee = accounts.get(destination);
    if (!payee) return "op_no_destination";
    const credited = receive(payee, asset, amount);
    if (typeof credited === "string") return credited;
    save(credited);
  }
  const debited = spend(accounts.get(source.id) ?? source, asset, amount);
  if (typeof debited === "string") return debited;
  save(debited);
  return "op_success";
}

function applyChangeTrust(
  { changeTrustOp: { line, limit } }: BodyOf<"changeTrust">,
  { source, accounts, save, ledger }: OperationContext,
): string {
  const asset = toAsset(line as xdr.Asset);
  if (asset === null) return "op_malformed";
  const existing = source.trustLines.get(assetKey(asset));
  if (existing) {
    if (limit < existing.balance) return "op_invalid_limit";
    if (limit === 0n) {
      const trustLines = new Map(source.trustLines);
      trustLines.delete(assetKey(asset));
      save({ ...source, trustLines });
      return "op_success";
    }
    if (!accounts.get(asset.issuer)) return "op_no_issuer";
    save(withTrustLine(source, { ...existing, limit, lastModified: ledger }));
    return "op_success";
  }
  if (limit === 0n) return "op_invalid_limit";
  const issuer = accounts.get(asset.issuer);
  if (!issuer) return "op_no_issuer";
  if (subentryCount(source) >= subentriesMax) return "op_too_many_subentries";
  if (source.balance < minBalance(source, 1)) return "op_low_reserve";
  const authorized = (issuer.flags & authRequired) === 0;
  save(withTrustLine(source, { ...asset, balance: 0n, limit, authorized, lastModified: ledger }));
  return "op_success";
}

function applySetTrustLineFlags(
  { setTrustLineFlagsOp }: BodyOf<"setTrustLineFlags">,
  { source, accounts, save, ledger }: OperationContext,
): string {
  const { clearFlags, setFlags } = setTrustLineFlagsOp;
  const isRevoking = (clearFlags & authorizedFlag) !== 0;
  if (isRevoking && (source.flags & authRevocable) === 0) return "op_cant_revoke";
  const trustor = accounts.get(addressOf(setTrustLineFlagsOp.trustor));
  const asset = toAsset(setTrustLineFlagsOp.asset);
  const line = asset && trustor?.trustLines.get(assetKey(asset));
  if (!trustor || !line) return "op_no_trustline";
  const isGranting = (setFlags & authorizedFlag) !== 0;
  const authorized = isGranting || (line.authorized && !isRevoking);
  save(withTrustLine(trustor, { ...line, authorized, lastModified: ledger }));
  return "op_success";
}
