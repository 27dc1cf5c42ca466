import { createHash, hkdfSync } from "node:crypto";
import { Keypair } from "@stellar/stellar-sdk/base";
import type { StellarNetwork } from "../stellar/network.ts";

/** Who proved to hold an account's keys, by which challenge. */
export interface WalletProof {
  account: string;
  /** Names the challenge: no other one has the same. */
  hash: Buffer;
  /** After this the challenge is refused for its age. */
  expireAt: Date;
}

/** Asks for, and checks, the proof of SEP-10 that somebody holds the keys of a Stellar account. */
export interface WalletAuth {
  /** Whose signature the challenges carry: `G...`. */
  readonly signingKey: string;
  readonly homeDomain: string;
  readonly passphrase: string;
  /** A challenge for the account, as base64 XDR. */
  challenge(account: string): Promise<string>;
  /** Null when the answer proves nothing. Throws when the network cannot say who may sign for the account. */
  verify(envelope: string): Promise<WalletProof | null>;
}

const challengeSeconds = 300;

/** How long past its end a clock that is late may still take a challenge. */
const graceSeconds = 600;

/** Make it for a network. `signingSecret` is a seed (`S...`) that is used for nothing else. */
export function createWalletAuth({
  network,
  signingSecret,
  homeDomain,
}: {
  network: Pick<StellarNetwork, "passphrase" | "horizon">;
  signingSecret: string;
  homeDomain: string;
}): WalletAuth {
  const signer = Keypair.fromSecret(signingSecret);
  const signingKey = signer.publicKey();
  const { passphrase, horizon } = network;
  // Loaded by the first wallet: most servers never see one, and the whole kit takes some 30 MB.
  const loadKit = async () => (await import("@stellar/stellar-sdk")).WebAuth;
  type Kit = Awaited<ReturnType<typeof loadKit>>;

  function read(kit: Kit, envelope: string) {
    try {
      const { tx, clientAccountID, memo } = kit.readChallengeTx(
        envelope,
        signingKey,
        passphrase,
        homeDomain,
        homeDomain,
      );
      const isPlain = memo === null && clientAccountID.startsWith("G");
      return isPlain ? { tx, account: clientAccountID } : null;
    } catch {
      return null;
    }
  }

  function isSigned(kit: Kit, envelope: string, who: Signers): boolean {
    const { signers, threshold } = who;
    try {
      kit.verifyChallengeTxThreshold(
        envelope,
        signingKey,
        passphrase,
        threshold,
        signers.map(({ key, weight }) => ({ key, weight, type: "ed25519_public_key" })),
        homeDomain,
        homeDomain,
      );
      return true;
    } catch {
      return false;
    }
  }

  return {
    signingKey,
    homeDomain,
    passphrase,
    async challenge(account) {
      const kit = await loadKit();
      return kit.buildChallengeTx(
        signer,
        account,
        homeDomain,
        challengeSeconds,
        passphrase,
        homeDomain,
      );
    },
    async verify(envelope) {
      const kit = await loadKit();
      const found = read(kit, envelope);
      if (found === null) {
        return null;
      }
      const { tx, account } = found;
      const onChain = await horizon.findAccount(account);
      const who = onChain === null ? masterKeyOnly(account) : signersOf(onChain);
      if (!isSigned(kit, envelope, who)) {
        return null;
      }
      const endSeconds = Number(tx.timeBounds?.maxTime ?? 0) + graceSeconds;
      return { account, hash: Buffer.from(tx.hash()), expireAt: new Date(endSeconds * 1000) };
    },
  };
}

interface Signers {
  signers: readonly { key: string; weight: number }[];
  /** At least 1. */
  threshold: number;
}

function masterKeyOnly(account: string): Signers {
  return { signers: [{ key: account, weight: 1 }], threshold: 1 };
}

/** With a threshold of zero a key without weight would do, such as a master key that was taken out of use. */
function signersOf({ signers, mediumThreshold }: SignersOnChain): Signers {
  return { signers, threshold: Math.max(1, mediumThreshold) };
}

type SignersOnChain = Pick<
  NonNullable<Awaited<ReturnType<StellarNetwork["horizon"]["findAccount"]>>>,
  "signers" | "mediumThreshold"
>;

/** A signing seed that is always the same for a server's secret. For development. */
export function deriveSigningSecret(secretKey: string): string {
  const seed = Buffer.from(hkdfSync("sha256", secretKey, "", "callora wallet signing v1", 32));
  return Keypair.fromRawEd25519Seed(seed).secret();
}

/** The issuer under which a network's accounts are identities. */
export function walletIssuer(passphrase: string): string {
  return `stellar:${createHash("sha256").update(passphrase).digest("hex")}`;
}
