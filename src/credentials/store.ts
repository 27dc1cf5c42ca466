import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { decodeFields } from "./format.ts";
import type { Sealer } from "./seal.ts";

/** Which part of the world a credential is for. */
export type CredentialEnvironment = "live" | "test";

/** The natural name of a credential. */
export interface CredentialRef {
  readonly accountId: string;
  readonly provider: string;
  readonly environment: CredentialEnvironment;
}

/** What keeps opened credentials true: announced by credentialKey(). */
export const credentialTopic = "credential";

/** How a credential is called where it is announced. */
export function credentialKey({ accountId, environment, provider }: CredentialRef): string {
  return `${accountId} ${environment} ${provider}`;
}

/** The credential that is called so. */
export function parseCredentialKey(key: string): CredentialRef {
  const [accountId = "", environment, ...provider] = key.split(" ");
  return {
    accountId,
    environment: environment === "live" ? "live" : "test",
    provider: provider.join(" "),
  };
}

/**
 * An opened credential. A value comes out by the name of its field alone, so that no log, span or error takes it along
 * with the object.
 */
export interface OpenSecret {
  readonly id: string;
  readonly fields: readonly string[];
  value(field: string): string | undefined;
}

const providerRow = z.object({ provider: z.string() });

/** List the providers whose credentials an account has enabled, in alphabetical order. */
export async function enabledProviders(queries: Queries, accountId: string): Promise<string[]> {
  const rows = await queries.any(sql.type(providerRow)`
    select provider from credentials
    where account_id = ${accountId} and environment = 'live' and enabled and sealed is not null
    order by provider collate "C"
  `);
  return rows.map(({ provider }) => provider);
}

const sealedRow = z.object({
  id: z.string(),
  fields: z.array(z.string()),
  enabled: z.boolean(),
  sealed: z.instanceof(Buffer).nullable(),
  unreadable: z.boolean(),
});

const sealedColumns = sql.fragment`
  id, fields, enabled, sealed, unreadable_at is not null as unreadable
`;

/** A credential as it is stored. `sealed` is null once it was removed. */
export type SealedRow = z.infer<typeof sealedRow>;

/**
 * Open an enabled credential, to call its provider with. Null when the account has none, or disabled it.
 *
 * Throws UnknownKeyError or TamperedError when it cannot be opened.
 */
export async function openSecret(
  queries: Queries,
  sealer: Pick<Sealer, "open">,
  ref: CredentialRef,
): Promise<OpenSecret | null> {
  const row = await queries.maybeOne(sql.type(sealedRow)`
    select ${sealedColumns} from credentials
    where account_id = ${ref.accountId} and provider = ${ref.provider}
      and environment = ${ref.environment} and enabled and sealed is not null
  `);
  if (row === null || row.sealed === null) {
    return null;
  }
  const values = decodeFields(sealer.open(row.sealed, { ...ref, id: row.id }));
  return { id: row.id, fields: [...values.keys()], value: (field) => values.get(field) };
}

const listedRow = z.object({
  provider: z.string(),
  fields: z.array(z.string()),
  enabled: z.boolean(),
});

/** List an account's credentials of an environment, without their values. */
export function listCredentials(
  db: Queries,
  { accountId, environment, limit }: Omit<CredentialRef, "provider"> & { limit: number },
): Promise<readonly z.infer<typeof listedRow>[]> {
  return db.any(sql.type(listedRow)`
    select provider, fields, enabled from credentials
    where account_id = ${accountId} and environment = ${environment} and sealed is not null
    order by provider collate "C" limit ${limit}
  `);
}

/** Count an account's credentials. */
export async function countCredentials(db: Queries, accountId: string): Promise<number> {
  const { count } = await db.one(sql.type(z.object({ count: z.bigint() }))`
    select count(*) from credentials where account_id = ${accountId} and sealed is not null
  `);
  return Number(count);
}

/** Lock a credential, removed or not. */
export function lockCredential(tx: Tx, ref: CredentialRef): Promise<SealedRow | null> {
  return tx.maybeOne(sql.type(sealedRow)`
    select ${sealedColumns} from credentials
    where account_id = ${ref.accountId} and provider = ${ref.provider}
      and environment = ${ref.environment}
    for update
  `);
}

/** A credential's new values. */
export interface NewSeal {
  readonly id: string;
  readonly fields: readonly string[];
  readonly sealed: Buffer;
  readonly now: Date;
}

const idRow = z.object({ id: z.string() });

/** Insert an enabled credential. False when there is one of that name, removed or not. */
export async function insertCredential(
  tx: Tx,
  ref: CredentialRef,
  { id, fields, sealed, now }: NewSeal,
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(idRow)`
    insert into credentials (
      account_id, id, provider, environment, fields, sealed, created_at, updated_at
    )
    values (
      ${ref.accountId}, ${id}, ${ref.provider}, ${ref.environment}, ${sql.array(fields, "text")},
      ${sql.binary(sealed)}, ${now.toISOString()}, ${now.toISOString()}
    )
    on conflict do nothing
    returning id
  `);
  return row !== null;
}

/** Give a locked credential other values. Whether it is enabled stays. */
export async function updateCredential(
  tx: Tx,
  accountId: string,
  { id, fields, sealed, now }: NewSeal,
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update credentials
    set fields = ${sql.array(fields, "text")}, sealed = ${sql.binary(sealed)},
      unreadable_at = null, updated_at = ${now.toISOString()}
    where account_id = ${accountId} and id = ${id}
  `);
}

/** Make a removed credential, which is locked, a new and enabled one under a new id. */
export async function replaceRemoved(
  tx: Tx,
  { accountId, removedId }: { accountId: string; removedId: string },
  { id, fields, sealed, now }: NewSeal,
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update credentials
    set id = ${id}, fields = ${sql.array(fields, "text")}, sealed = ${sql.binary(sealed)},
      enabled = true, created_at = ${now.toISOString()}, updated_at = ${now.toISOString()}
    where account_id = ${accountId} and id = ${removedId} and sealed is null
  `);
}

/** Enable or disable a credential. False when there is none. */
export async function setEnabled(
  tx: Tx,
  ref: CredentialRef,
  { enabled, now }: { enabled: boolean; now: Date },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(idRow)`
    update credentials set enabled = ${enabled}, updated_at = ${now.toISOString()}
    where account_id = ${ref.accountId} and provider = ${ref.provider}
      and environment = ${ref.environment} and sealed is not null
    returning id
  `);
  return row !== null;
}

/** Remove a credential: its values are gone from the row. False when there is none. */
export async function removeCredential(tx: Tx, ref: CredentialRef, now: Date): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(idRow)`
    update credentials
    set sealed = null, fields = '{}', unreadable_at = null, updated_at = ${now.toISOString()}
    where account_id = ${ref.accountId} and provider = ${ref.provider}
      and environment = ${ref.environment} and sealed is not null
    returning id
  `);
  return row !== null;
}
