import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { sql } from "slonik";
import { z } from "zod";
import type { Audit } from "./database.ts";
import { nothing, type Tx } from "./pool.ts";

/** Thrown when a key comes again with another request. */
export class KeyReusedError extends Error {
  override name = "KeyReusedError";
}

/** Thrown when an earlier call with the same key is still running after a while. */
export class KeyBusyError extends Error {
  override name = "KeyBusyError";
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

/** How long a call waits for an earlier one with the same key. */
const lockTimeout = "3s";
const lockNotAvailable = "55P03";

/**
 * Do the work, unless an earlier call with the same key did: then give its answer again, and say that nothing changed.
 *
 * The answer is stored in the transaction of the work, without the fields marked `debug_redact`: a secret is shown
 * once. Throws KeyReusedError when the earlier request was another one, KeyBusyError when it is still running.
 */
export async function once<Desc extends DescMessage>(
  tx: Tx,
  { audit, ...scope }: { accountId: string; retry: Retry; response: Desc; audit: Audit },
  work: () => Promise<MessageInitShape<Desc>>,
): Promise<MessageShape<Desc>> {
  const { accountId, retry, response } = scope;
  if (retry.key === "") {
    return create(response, await work());
  }
  if (!(await claimKey(tx, accountId, retry))) {
    audit.unchanged();
    return earlierAnswer(tx, scope);
  }
  const answer = create(response, await work());
  await tx.query(sql.type(nothing)`
    update idempotency_keys
    set response = ${sql.binary(Buffer.from(toBinary(response, redacted(response, answer))))}
    where account_id = ${accountId} and method = ${retry.method} and key = ${retry.key}
  `);
  return answer;
}

/** Claim a key. False when an earlier call has it; one that is still running is waited for. */
async function claimKey(tx: Tx, accountId: string, retry: Retry): Promise<boolean> {
  await tx.query(sql.type(z.unknown())`select set_config('lock_timeout', ${lockTimeout}, true)`);
  try {
    const claim = await tx.maybeOne(sql.type(claimRow)`
      insert into idempotency_keys (account_id, method, key, request_hash, response)
      values (${accountId}, ${retry.method}, ${retry.key}, ${sql.binary(retry.requestHash)}, '')
      on conflict do nothing
      returning key
    `);
    return claim !== null;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === lockNotAvailable) {
      const message = `Cannot use key "${retry.key}" now: the call that has it is still running`;
      throw new KeyBusyError(message, { cause: error });
    }
    throw error;
  }
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
  redact(reflect(desc, copy));
  return copy;
}

/** Clear what is marked, in the message and in those within it. */
function redact(message: ReflectMessage): void {
  for (const field of message.fields) {
    if (field.proto.options?.debugRedact) {
      message.clear(field);
    } else if (field.fieldKind === "message" && message.isSet(field)) {
      redact(message.get(field));
    } else if (field.fieldKind === "list" && field.listKind === "message") {
      for (const item of message.get(field)) {
        redact(item as ReflectMessage);
      }
    }
  }
}
