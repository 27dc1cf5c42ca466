import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { failedPrecondition, unavailable } from "../rpc/errors.ts";
import {
  decodeFields,
  encodeFields,
  type Fields,
  fieldsBytesMax,
  fieldsMax,
  fitTogether,
} from "./format.ts";
import { type Sealer, TamperedError } from "./seal.ts";
import {
  type CredentialRef,
  countCredentials,
  insertCredential,
  lockCredential,
  type NewSeal,
  replaceRemoved,
  type SealedRow,
  updateCredential,
} from "./store.ts";

/** Most providers of one account. */
const providersMax = 100;

/** A credential may be removed for good between two looks at it, but not by somebody each time. */
const attemptsMax = 5;

/**
 * Set fields of a credential. Those that are stored and not named stay; one that was not there is enabled.
 *
 * Throws FAILED_PRECONDITION with reason SECRET_UNREADABLE, SECRET_TOO_LARGE or SECRETS_TOO_MANY.
 */
export async function putFields(
  { tx, sealer, now }: { tx: Tx; sealer: Sealer; now: Date },
  ref: CredentialRef,
  added: Fields,
): Promise<void> {
  const sealUnder = (id: string, fields: Fields): NewSeal => {
    checkFit(ref, fields);
    const sealed = sealer.seal(encodeFields(fields), { ...ref, id });
    return { id, fields: [...fields.keys()].sort(), sealed, now };
  };
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const row = await lockCredential(tx, ref);
    if (row !== null && row.sealed !== null) {
      const merged = new Map([...openStored(sealer, ref, row, row.sealed), ...added]);
      await updateCredential(tx, ref.accountId, sealUnder(row.id, merged));
      return;
    }
    if ((await countCredentials(tx, ref.accountId)) >= providersMax) {
      const message = `Cannot add a provider: the account has ${providersMax}`;
      throw failedPrecondition("SECRETS_TOO_MANY", message);
    }
    const fresh = sealUnder(newId("crd", now), added);
    if (row !== null) {
      await replaceRemoved(tx, { accountId: ref.accountId, removedId: row.id }, fresh);
      return;
    }
    if (await insertCredential(tx, ref, fresh)) {
      return;
    }
  }
  throw unavailable("SECRET_BUSY", `Cannot set the secret of "${ref.provider}": it changes`);
}

function openStored(sealer: Sealer, ref: CredentialRef, row: SealedRow, sealed: Buffer): Fields {
  try {
    return decodeFields(sealer.open(sealed, { ...ref, id: row.id }));
  } catch (error) {
    // What was found damaged may name a key that is gone since.
    if (error instanceof TamperedError || row.unreadable) {
      const reason = "what is stored was damaged; delete it, then set all fields";
      const message = `Cannot change the secret of "${ref.provider}": ${reason}`;
      throw failedPrecondition("SECRET_UNREADABLE", message);
    }
    throw error;
  }
}

function checkFit({ provider }: CredentialRef, fields: Fields): void {
  if (!fitTogether(fields)) {
    const limits = `${fieldsMax} fields or ${fieldsBytesMax} bytes`;
    const message = `Cannot set the secret of "${provider}": it would have more than ${limits}`;
    throw failedPrecondition("SECRET_TOO_LARGE", message);
  }
}
