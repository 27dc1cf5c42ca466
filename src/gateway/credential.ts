import { type Sealer, TamperedError, UnknownKeyError } from "../credentials/seal.ts";
import {
  type CredentialRef,
  credentialKey,
  credentialTopic,
  type OpenSecret,
  openSecret,
  parseCredentialKey,
} from "../credentials/store.ts";
import type { Database } from "../db/database.ts";
import type { Memory } from "../db/memory.ts";
import type { Trust } from "../db/trust.ts";
import { andThen, type MaybePromise } from "../lib/maybe-promise.ts";
import type { Mode } from "../rpc/principal.ts";

/** A secret that is sent to an API's upstreams. */
export interface CredentialHeader {
  /** In lower case. */
  readonly header: string;
  /**
   * What is sent. Empty: nothing, which only a test call may do. Null: there is none that can be sent, and no call may
   * go without it.
   */
  value(mode: Mode): MaybePromise<string | null>;
}

/** Opened credentials, by credentialKey(). One that is kept but cannot be opened is "unreadable". */
export type CredentialMemory = Pick<Memory<OpenSecret | "unreadable">, "get">;

/** Credentials whose opened fields are remembered. One takes up to 64 KiB. */
const credentialsMax = 1_000;

/** Remember opened credentials. Whoever changes one announces its key under `credentialTopic`. */
export function rememberCredentials({
  db,
  trust,
  sealer,
}: {
  db: Database;
  trust: Trust;
  sealer: Pick<Sealer, "open">;
}): CredentialMemory {
  return trust.remember<OpenSecret | "unreadable">(credentialTopic, {
    entriesMax: credentialsMax,
    load: (keys) =>
      db.systemTransaction(async (tx) => {
        const found = new Map<string, OpenSecret | "unreadable">();
        for (const key of keys) {
          const ref = parseCredentialKey(key);
          const secret = await openSecret(tx, sealer, ref).catch(toUnreadable);
          if (secret !== null) {
            found.set(key, secret);
          }
        }
        return found;
      }),
  });
}

function toUnreadable(error: unknown): "unreadable" {
  if (error instanceof TamperedError || error instanceof UnknownKeyError) {
    return "unreadable";
  }
  throw error;
}

/** Which field of a developer's secret is sent, and how. */
export interface CredentialUse {
  accountId: string;
  provider: string;
  field: string;
  header: string;
  prefix: string;
}

/** The header that sends a secret. Test calls get what is kept for tests: never what live ones get. */
export function credentialHeader(memory: CredentialMemory, use: CredentialUse): CredentialHeader {
  const { accountId, provider, field, header, prefix } = use;
  const keyOf = (environment: CredentialRef["environment"]) =>
    credentialKey({ accountId, provider, environment });
  const keys = { live: keyOf("live"), test: keyOf("test") } satisfies Record<Mode, string>;
  return {
    header,
    value: (mode) =>
      andThen(memory.get(keys[mode]), (secret) => {
        if (secret === null) {
          return mode === "test" ? "" : null;
        }
        const value = secret === "unreadable" ? undefined : secret.value(field);
        return value === undefined ? null : toHeaderValue(prefix + value);
      }),
  };
}

const valueBytesMax = 8_192;
// A line end would begin another header.
const headerValue = /^[\x20-\x7e]+$/;

/** Null: it cannot stand in a header. */
function toHeaderValue(text: string): string | null {
  return text.length <= valueBytesMax && headerValue.test(text) ? text : null;
}
