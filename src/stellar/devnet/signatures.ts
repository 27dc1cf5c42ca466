import { createPublicKey, verify } from "node:crypto";
import { StrKey } from "@stellar/stellar-sdk/base";
import type { Signature, Signed } from "./envelope.ts";
import type { Account } from "./state.ts";

/** How much signing weight an operation needs. */
export type Level = "low" | "medium" | "high";

/** Counts weights, and remembers which signatures were of use. */
export type SignatureChecker = {
  /** Whether the signatures reach the account's threshold. */
  reaches(account: Account, level: Level): boolean;
  /** Whether the key itself signed, for an account that does not exist. */
  signedBy(id: string): boolean;
  /** Whether each signature was of use to some check. */
  allUsed(): boolean;
};

/** Check the signatures of one transaction. Unused signatures make it invalid. */
export function signatureChecker(signed: Signed): SignatureChecker {
  const used = new Set<number>();

  function weigh(signers: { key: string; weight: number }[], needed: number): boolean {
    const left = [...signers];
    let total = 0;
    for (const [index, signature] of signed.signatures.entries()) {
      const found = left.findIndex(({ key }) => isSignedBy(signed, { index, signature, key }));
      const signer = left[found];
      if (signer === undefined) continue;
      used.add(index);
      total += Math.min(signer.weight, 255);
      if (total >= needed) return true;
      left.splice(found, 1);
    }
    return false;
  }

  return {
    reaches(account, level) {
      const master = { key: account.id, weight: account.masterWeight };
      const signers = master.weight > 0 ? [...account.signers, master] : [...account.signers];
      return weigh(signers, account.thresholds[level]);
    },
    signedBy: (id) => weigh([{ key: id, weight: 1 }], 0),
    allUsed: () => used.size === signed.signatures.length,
  };
}

// node:crypto verifies in 0.11 ms what the SDK's own code takes 1.4 ms for.
function isSignedBy(
  signed: Signed,
  { index, signature, key }: { index: number; signature: Signature; key: string },
): boolean {
  const raw = StrKey.decodeEd25519PublicKey(key);
  if (!signature.hint.equals(raw.subarray(28))) return false;
  const memo = `${index} ${key}`;
  const known = signed.verified.get(memo);
  if (known !== undefined) return known;
  const valid = signature.bytes.length === 64 && verifies(signed.hash, raw, signature.bytes);
  signed.verified.set(memo, valid);
  return valid;
}

function verifies(hash: Buffer, raw: Uint8Array, signature: Buffer): boolean {
  const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw]);
  try {
    const key = createPublicKey({ key: spki, format: "der", type: "spki" });
    return verify(null, hash, key, signature);
  } catch {
    // Not every 32 bytes are a point on the curve.
    return false;
  }
}
