import {
  clearField,
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "./pool.ts";

/** Thrown when a key comes again with another request. */
export class KeyReusedError extends Error {
  override name = "KeyReusedError";
}

/** What makes a call a retry of an earlier one. An empty key: nothing does. */
export interface Retry {
  method: string;
  key: string;
  requestHash: Buffer;
}

/** How long an answer is kept. After that the same key makes a new call. */
const answerHours = 24;

const claimRow = z.object({ key: z.string() });
const answerRow = z.object({ request_hash: z.instanceof(Buffer), response: z.instanceof(Buffer) });

/**
 * Do the work, unless an earlier call with the same key did: then give its answer again.
 *
 * The answer is stored in the transaction of the work, without the fields marked `debug_redact`: a secret is shown
 * once. A call that is still running makes this one wait, up to the lock timeout. Throws KeyReusedError when the
 * earlier request was another one.
 */
export async function once<Desc extends DescMessage>(
  tx: Tx,
  { accountId, retry, response }: { accountId: string; retry: Retry; response: Desc },
  work: () => Promise<MessageInitShape<Desc>>,
): Promise<{ answer: MessageShape<Desc>; repeated: boolean }> {
  if (retry.key === "") {
    return { answer: create(response, await work()), repeated: false };
  }
  const claim = await tx.maybeOne(sql.type(claimRow)`
    insert into idempotency_keys (account_id, method, key, request_hash, response)
    values (${accountId}, ${retry.method}, ${retry.key}, ${sql.binary(retry.requestHash)}, '')
    on conflict do nothing
    returning key
  `);
  if (claim === null) {
    return { answer: await earlierAnswer(tx, { accountId, retry, response }), repeated: true };
  }
  const answer = create(response, await work());
  await tx.query(sql.type(nothing)`
    update idempotency_keys
    set response = ${sql.binary(Buffer.from(toBinary(response, redacted(response, answer))))}
    where account_id = ${accountId} and method = ${retry.method} and key = ${retry.key}
  `);
  return { answer, repeated: false };
}

/** Delete up to 1,000 answers that are more than a day old: no retry gets them again. */
export async function deleteOldAnswers(tx: Tx, now: Date): Promise<void> {
  const before = new Date(now.getTime() - answerHours * 60 * 60 * 1000);
  await tx.query(sql.type(nothing)`
    delete from idempotency_keys where (account_id, method, key) in (
      select account_id, method, key from idempotency_keys
      where created_at < ${before.toISOString()} limit 1000
    )
  `);
}

async function earlierAnswer<Desc extends DescMessage>(
  tx: Tx,
  { accountId, retry, response }: { accountId: string; retry: Retry; response: Desc },
): Promise<MessageShape<Desc>> {
  const row = await tx.one(sql.type(answerRow)`
    select request_hash, response from idempotency_keys
    where account_id = ${accountId} and method = ${retry.method} and key = ${retry.key}
  `);
  if (!row.request_hash.equals(retry.requestHash)) {
    throw new KeyReusedError(`Cannot use key "${retry.key}" again: it was for another request`);
  }
  return fromBinary(response, row.response);
}

function redacted<Desc extends DescMessage>(
  desc: Desc,
  message: MessageShape<Desc>,
): MessageShape<Desc> {
  const copy = fromBinary(desc, toBinary(desc, message));
  for (const field of desc.fields) {
    if (field.proto.options?.debugRedact) {
      clearField(copy, field);
    }
  }
  return copy;
}
