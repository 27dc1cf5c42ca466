import { createHash } from "node:crypto";
import { StrKey, xdr } from "@stellar/stellar-sdk/base";

/** Longest base64 envelope accepted: 100 of the largest supported operations with 20 signatures. */
const envelopeCharactersMax = 64 * 1024;

/** A signature with the last four bytes of the key that is said to have made it. */
export type Signature = { hint: Buffer; bytes: Buffer };

/** What was signed, and the signatures. `verified` remembers checks by signature and key. */
export type Signed = {
  hash: Buffer;
  signatures: readonly Signature[];
  verified: Map<string, boolean>;
};

/** A transaction without the fee bump around it. */
export type Transaction = Signed & {
  source: string;
  sourceMuxed: string | null;
  fee: bigint;
  sequence: bigint;
  conditions: xdr.PreconditionsV2;
  memo: xdr.Memo;
  operations: readonly xdr.Operation[];
  soroban: boolean;
};

/** The fee bump around a transaction. */
export type FeeBump = Signed & { source: string; fee: bigint };

/** A submitted envelope, parsed with the ledger's own passphrase. */
export type Envelope = {
  base64: string;
  /** Hex hash of the outermost transaction. */
  hash: string;
  transaction: Transaction;
  feeBump: FeeBump | null;
};

/** Hash of the passphrase, which every signed payload starts with. */
export function networkId(passphrase: string): Buffer {
  return sha256(Buffer.from(passphrase));
}

/** Parse a base64 envelope. Throws on anything that is not exactly one envelope. */
export function parseEnvelope(base64: string, network: Buffer): Envelope {
  if (base64.length > envelopeCharactersMax) {
    throw new Error(`Cannot parse envelope: longer than ${envelopeCharactersMax} characters`);
  }
  const raw = Buffer.from(base64, "base64");
  const envelope = xdr.TransactionEnvelope.fromXdr(raw);
  const canonical = raw.toString("base64");
  if (envelope.type === "envelopeTypeTxFeeBump") {
    return parseFeeBump(envelope.feeBump, { raw, network, base64: canonical });
  }
  const transaction =
    envelope.type === "envelopeTypeTx"
      ? parseV1(envelope.v1, raw, network)
      : parseV0(envelope.v0, raw, network);
  return { base64: canonical, hash: hex(transaction.hash), transaction, feeBump: null };
}

/** The account behind a plain or a muxed address. */
export function accountOf(muxed: xdr.MuxedAccount): string {
  const key = muxed.type === "keyTypeEd25519" ? muxed.ed25519 : muxed.med25519.ed25519;
  return StrKey.encodeEd25519PublicKey(key.value);
}

/** The muxed address and its number, or null for a plain address. */
export function muxedOf(muxed: xdr.MuxedAccount): { address: string; id: string } | null {
  if (muxed.type === "keyTypeEd25519") return null;
  const { id, ed25519 } = muxed.med25519;
  const bytes = Buffer.alloc(40);
  bytes.set(ed25519.value, 0);
  bytes.writeBigUInt64BE(id, 32);
  return { address: StrKey.encodeMed25519PublicKey(bytes), id: id.toString() };
}

/** The address of a public key. */
export function addressOf(key: xdr.PublicKey): string {
  return StrKey.encodeEd25519PublicKey(key.ed25519.value);
}

function parseFeeBump(
  envelope: xdr.FeeBumpTransactionEnvelope,
  { raw, network, base64 }: { raw: Buffer; network: Buffer; base64: string },
): Envelope {
  const { tx, signatures } = envelope;
  const outerEnd = raw.length - signaturesLength(signatures);
  // Type of the envelope, fee source, fee; then the inner envelope, up to the extension point.
  const innerStart = 4 + (tx.feeSource.type === "keyTypeEd25519" ? 36 : 44) + 8;
  const hash = sha256(network, raw.subarray(0, outerEnd));
  return {
    base64,
    hash: hex(hash),
    transaction: parseV1(tx.innerTx.v1, raw.subarray(innerStart, outerEnd - 4), network),
    feeBump: {
      hash,
      signatures: signatures.map(toSignature),
      verified: new Map(),
      source: accountOf(tx.feeSource),
      fee: tx.fee,
    },
  };
}

/** The signed bytes are a prefix of the envelope: encoding the transaction again costs 1 ms. */
function parseV1(v1: xdr.TransactionV1Envelope, raw: Buffer, network: Buffer): Transaction {
  const { tx, signatures } = v1;
  const signed = raw.subarray(0, raw.length - signaturesLength(signatures));
  return {
    hash: sha256(network, signed),
    signatures: signatures.map(toSignature),
    verified: new Map(),
    source: accountOf(tx.sourceAccount),
    sourceMuxed: muxedOf(tx.sourceAccount)?.address ?? null,
    fee: BigInt(tx.fee),
    sequence: tx.seqNum,
    conditions: toConditions(tx.cond),
    memo: tx.memo,
    operations: tx.operations,
    soroban: tx.ext.type !== "v0",
  };
}

/** Version 0 is signed as if it were version 1, with a plain source account. */
function parseV0(v0: xdr.TransactionV0Envelope, raw: Buffer, network: Buffer): Transaction {
  const { tx, signatures } = v0;
  const body = raw.subarray(4, raw.length - signaturesLength(signatures));
  const prefix = Buffer.from([0, 0, 0, 2, 0, 0, 0, 0]);
  return {
    hash: sha256(network, prefix, body),
    signatures: signatures.map(toSignature),
    verified: new Map(),
    source: StrKey.encodeEd25519PublicKey(tx.sourceAccountEd25519.value),
    sourceMuxed: null,
    fee: BigInt(tx.fee),
    sequence: tx.seqNum,
    conditions: noConditions(tx.timeBounds),
    memo: tx.memo,
    operations: tx.operations,
    soroban: false,
  };
}

function toConditions(cond: xdr.Preconditions): xdr.PreconditionsV2 {
  if (cond.type === "precondV2") return cond.v2;
  return noConditions(cond.type === "precondTime" ? cond.timeBounds : null);
}

function noConditions(timeBounds: xdr.TimeBounds | null): xdr.PreconditionsV2 {
  return new xdr.PreconditionsV2({
    timeBounds,
    ledgerBounds: null,
    minSeqNum: null,
    minSeqAge: 0n,
    minSeqLedgerGap: 0,
    extraSigners: [],
  });
}

function toSignature({ hint, signature }: xdr.DecoratedSignature): Signature {
  return { hint: Buffer.from(hint.value), bytes: Buffer.from(signature.value) };
}

function signaturesLength(signatures: readonly xdr.DecoratedSignature[]): number {
  let length = 4;
  for (const { signature } of signatures) length += 8 + Math.ceil(signature.value.length / 4) * 4;
  return length;
}

function sha256(...parts: Uint8Array[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

function hex(hash: Buffer): string {
  return hash.toString("hex");
}
