import { StrKey, type xdr } from "@stellar/stellar-sdk/base";
import { accountOf, addressOf } from "./envelope.ts";
import type { BodyOf, OperationContext, Rule } from "./operation-rule.ts";
import {
  type Account,
  amountMax,
  authClawback,
  authImmutable,
  authRequired,
  authRevocable,
  minBalance,
  signersMax,
  subentriesMax,
  subentryCount,
} from "./state.ts";

type Kind = "setOptions" | "manageData" | "bumpSequence" | "accountMerge";

const allFlags = authRequired | authRevocable | authImmutable | authClawback;

/** Operations on the account itself. */
export const accountRules: { [K in Kind]: Rule<K> } = {
  setOptions: {
    level: ({ setOptionsOp: op }) => {
      const touched = [op.masterWeight, op.lowThreshold, op.medThreshold, op.highThreshold];
      return op.signer || touched.some((value) => value !== null) ? "high" : "medium";
    },
    check: ({ setOptionsOp }, source) => checkSetOptions(setOptionsOp, source),
    apply: ({ setOptionsOp }, context) => applySetOptions(setOptionsOp, context),
  },
  manageData: {
    level: () => "medium",
    check({ manageDataOp: { dataName } }) {
      return dataName.length >= 1 && isPrintable(dataName.bytes)
        ? "op_success"
        : "op_data_invalid_name";
    },
    apply: applyManageData,
  },
  bumpSequence: {
    level: () => "low",
    check: ({ bumpSequenceOp: { bumpTo } }) => (bumpTo < 0n ? "op_bad_seq" : "op_success"),
    apply({ bumpSequenceOp: { bumpTo } }, { source, save, ledger, closeTime }) {
      if (bumpTo <= source.sequence) return "op_success";
      save({ ...source, sequence: bumpTo, sequenceLedger: ledger, sequenceTime: closeTime });
      return "op_success";
    },
  },
  accountMerge: {
    level: () => "high",
    check: ({ destination }, source) =>
      accountOf(destination) === source ? "op_malformed" : "op_success",
    apply({ destination }, { source, accounts, save, ledger }) {
      const into = accounts.get(accountOf(destination));
      if (!into) return "op_no_account";
      if (source.flags & authImmutable) return "op_immutable_set";
      if (source.trustLines.size + source.data.size > 0) return "op_has_sub_entries";
      // The account could be made again in this ledger with a sequence already used.
      if (source.sequence >= BigInt(ledger) << 32n) return "op_seq_num_too_far";
      if (into.balance + source.balance > amountMax) return "op_dest_full";
      save({ ...into, balance: into.balance + source.balance });
      accounts.remove(source.id);
      return { code: "op_success", balance: source.balance };
    },
  },
};

function checkSetOptions(op: xdr.SetOptionsOp, source: string): string {
  const setFlags = op.setFlags ?? 0;
  const clearFlags = op.clearFlags ?? 0;
  if ((setFlags | clearFlags) & ~allFlags) return "op_unknown_flag";
  if (setFlags & clearFlags) return "op_bad_flags";
  const weights = [op.masterWeight, op.lowThreshold, op.medThreshold, op.highThreshold];
  if (weights.some((weight) => (weight ?? 0) > 255)) return "op_threshold_out_of_range";
  if (op.signer) {
    const key = signerKey(op.signer);
    if (key === null) return "op_not_supported";
    if (key === source || op.signer.weight > 255) return "op_bad_signer";
  }
  const isValidDomain = op.homeDomain === null || isPrintable(op.homeDomain.bytes);
  return isValidDomain ? "op_success" : "op_invalid_home_domain";
}

function applySetOptions(op: xdr.SetOptionsOp, context: OperationContext): string {
  let account: Account = context.source;
  if (op.inflationDest) {
    const destination = addressOf(op.inflationDest);
    if (!context.accounts.get(destination)) return "op_invalid_inflation";
    account = { ...account, inflationDestination: destination };
  }
  const touchesFlags = (op.clearFlags ?? 0) !== 0 || (op.setFlags ?? 0) !== 0;
  if (touchesFlags && account.flags & authImmutable) return "op_cant_change";
  const flags = (account.flags & ~(op.clearFlags ?? 0)) | (op.setFlags ?? 0);
  if (flags & authClawback && !(flags & authRevocable)) return "op_auth_revocable_required";
  account = {
    ...account,
    flags,
    masterWeight: op.masterWeight ?? account.masterWeight,
    thresholds: {
      low: op.lowThreshold ?? account.thresholds.low,
      medium: op.medThreshold ?? account.thresholds.medium,
      high: op.highThreshold ?? account.thresholds.high,
    },
    homeDomain: op.homeDomain?.toString() ?? account.homeDomain,
  };
  const signed = op.signer ? withSigner(account, op.signer) : account;
  if (typeof signed === "string") return signed;
  context.save(signed);
  return "op_success";
}

/** Weight 0 takes a signer away; taking away one that is not there is no failure. */
function withSigner(account: Account, signer: xdr.Signer): Account | string {
  const key = signerKey(signer);
  if (key === null) return "op_not_supported";
  const others = account.signers.filter((known) => known.key !== key);
  if (signer.weight === 0) return { ...account, signers: others };
  if (others.length === account.signers.length) {
    if (others.length >= signersMax) return "op_too_many_signers";
    if (subentryCount(account) >= subentriesMax) return "op_too_many_subentries";
    if (account.balance < minBalance(account, 1)) return "op_low_reserve";
  }
  const signers = [...others, { key, weight: signer.weight }];
  signers.sort((a, b) => (a.key < b.key ? -1 : 1));
  return { ...account, signers };
}

function applyManageData(
  { manageDataOp: { dataName, dataValue } }: BodyOf<"manageData">,
  { source, save }: OperationContext,
): string {
  const name = dataName.toString();
  const data = new Map(source.data);
  if (dataValue === null) {
    if (!data.delete(name)) return "op_data_name_not_found";
  } else {
    if (!data.has(name)) {
      if (subentryCount(source) >= subentriesMax) return "op_too_many_subentries";
      if (source.balance < minBalance(source, 1)) return "op_low_reserve";
    }
    data.set(name, Buffer.from(dataValue.value).toString("base64"));
  }
  save({ ...source, data });
  return "op_success";
}

function signerKey({ key }: xdr.Signer): string | null {
  if (key.type !== "signerKeyTypeEd25519") return null;
  return StrKey.encodeEd25519PublicKey(key.ed25519.value);
}

function isPrintable(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte >= 0x20 && byte <= 0x7e);
}
