import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

/** Who somebody is elsewhere: a subject of an issuer. */
export interface Identity {
  issuer: string;
  subject: string;
}

const ownerRow = z.object({ account_id: z.string(), user_id: z.string() });

/** Find whose identity it is. Null: nobody's. For all accounts. */
export function findIdentity(
  db: Queries,
  { issuer, subject }: Identity,
): Promise<z.infer<typeof ownerRow> | null> {
  return db.maybeOne(sql.type(ownerRow)`
    select account_id, user_id from user_identities
    where issuer = ${issuer} and subject = ${subject}
  `);
}

/** Give an identity to a person. False when it is somebody's. */
export async function insertIdentity(
  tx: Tx,
  { issuer, subject }: Identity,
  owner: { accountId: string; userId: string },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(ownerRow)`
    insert into user_identities (issuer, subject, account_id, user_id)
    values (${issuer}, ${subject}, ${owner.accountId}, ${owner.userId})
    on conflict do nothing returning account_id, user_id
  `);
  return row !== null;
}

/** Use up a wallet's challenge. False when it was used. */
export async function useChallenge(
  tx: Tx,
  { hash, expireAt }: { hash: Buffer; expireAt: Date },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ hash: z.instanceof(Buffer) }))`
    insert into wallet_challenges (hash, expire_at)
    values (${sql.binary(hash)}, ${expireAt.toISOString()})
    on conflict do nothing returning hash
  `);
  return row !== null;
}

/** Delete up to 1,000 challenges that would be refused for their age. */
export async function deleteOldChallenges(tx: Tx, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from wallet_challenges where hash in (
      select hash from wallet_challenges where expire_at < ${now.toISOString()} limit 1000
    )
  `);
}
