import { StrKey, type xdr } from "@stellar/stellar-sdk/base";
import { amountText, assetJson, isoTime } from "./account-json.ts";
import { toAsset } from "./assets.ts";
import { accountOf, addressOf, muxedOf } from "./envelope.ts";
import { operationSource } from "./operations.ts";
import { pagingToken } from "./paging.ts";
import { type OperationKind, operationResults } from "./result.ts";
import { type FullTransaction, transactionJson } from "./transaction-json.ts";

/** An operation as Horizon shows it, with its transaction when `join` asks for it. */
export function operationJson(
  transaction: FullTransaction,
  index: number,
  { base, isJoined }: { base: string; isJoined: boolean },
) {
  const { row, envelope } = transaction;
  const operation = envelope.transaction.operations[index] as xdr.Operation;
  const source = operationSource(operation, envelope.transaction.source);
  const muxed = operation.sourceAccount && muxedOf(operation.sourceAccount);
  const id = pagingToken(row.ledger.sequence, row.order, index + 1).toString();
  const kind = operation.body.type as OperationKind;
  return {
    _links: {
      self: { href: `${base}/operations/${id}` },
      transaction: { href: `${base}/transactions/${row.hash}` },
      effects: { href: `${base}/operations/${id}/effects` },
      succeeds: { href: `${base}/operations?order=desc&cursor=${id}` },
      precedes: { href: `${base}/operations?order=asc&cursor=${id}` },
    },
    id,
    paging_token: id,
    transaction_successful: row.isSuccessful,
    source_account: source,
    ...(muxed && { source_account_muxed: muxed.address, source_account_muxed_id: muxed.id }),
    type: kind.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    type_i: operationResults[kind].type,
    created_at: isoTime(row.ledger.closeTime),
    transaction_hash: row.hash,
    ...(isJoined && { transaction: transactionJson(transaction, { base }) }),
    ...bodyJson(operation.body, source),
  };
}

function bodyJson(body: xdr.OperationBody, source: string): object {
  switch (body.type) {
    case "createAccount":
      return {
        starting_balance: amountText(body.createAccountOp.startingBalance),
        funder: source,
        account: addressOf(body.createAccountOp.destination),
      };
    case "payment": {
      const { asset, destination, amount } = body.paymentOp;
      const muxed = muxedOf(destination);
      return {
        ...assetJson(toAsset(asset)),
        from: source,
        to: accountOf(destination),
        ...(muxed && { to_muxed: muxed.address, to_muxed_id: muxed.id }),
        amount: amountText(amount),
      };
    }
    case "accountMerge":
      return { account: source, into: accountOf(body.destination) };
    case "changeTrust": {
      const asset = toAsset(body.changeTrustOp.line as xdr.Asset);
      const limit = amountText(body.changeTrustOp.limit);
      return { ...assetJson(asset), limit, trustee: asset?.issuer, trustor: source };
    }
    case "setTrustLineFlags": {
      const { asset, trustor, setFlags, clearFlags } = body.setTrustLineFlagsOp;
      return {
        ...assetJson(toAsset(asset)),
        trustor: addressOf(trustor),
        ...(setFlags && { set_flags: [1], set_flags_s: ["authorized"] }),
        ...(clearFlags && { clear_flags: [1], clear_flags_s: ["authorized"] }),
      };
    }
    case "manageData": {
      const { dataName, dataValue } = body.manageDataOp;
      const value = dataValue && Buffer.from(dataValue.value).toString("base64");
      return { name: dataName.toString(), value };
    }
    case "bumpSequence":
      return { bump_to: body.bumpSequenceOp.bumpTo.toString() };
    case "setOptions":
      return optionsJson(body.setOptionsOp);
    default:
      return {};
  }
}

const flagNames = {
  1: "auth_required",
  2: "auth_revocable",
  4: "auth_immutable",
  8: "auth_clawback_enabled",
};

function optionsJson(op: xdr.SetOptionsOp): object {
  const flags = (bits: number | null) =>
    Object.entries(flagNames).filter(([bit]) => (bits ?? 0) & Number(bit));
  const set = flags(op.setFlags);
  const clear = flags(op.clearFlags);
  const signer = op.signer?.key.type === "signerKeyTypeEd25519" ? op.signer.key : null;
  return {
    ...(op.homeDomain && { home_domain: op.homeDomain.toString() }),
    ...(op.inflationDest && { inflation_dest: addressOf(op.inflationDest) }),
    ...(op.masterWeight !== null && { master_key_weight: op.masterWeight }),
    ...(op.lowThreshold !== null && { low_threshold: op.lowThreshold }),
    ...(op.medThreshold !== null && { med_threshold: op.medThreshold }),
    ...(op.highThreshold !== null && { high_threshold: op.highThreshold }),
    ...(signer && {
      signer_key: StrKey.encodeEd25519PublicKey(signer.ed25519.value),
      signer_weight: op.signer?.weight,
    }),
    set_flags: set.map(([bit]) => Number(bit)),
    set_flags_s: set.map(([, name]) => name),
    clear_flags: clear.map(([bit]) => Number(bit)),
    clear_flags_s: clear.map(([, name]) => name),
  };
}
