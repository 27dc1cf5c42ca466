import { type IncomingMessage, type RequestOptions, request } from "node:http";
import type { Readable } from "node:stream";
import { type startTestApp, until } from "./app.ts";
import { grant } from "./books.ts";
import { newPerson } from "./people.ts";
import { asSuperuser } from "./superuser.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** What a call costs, in nano-USDC. */
export const price = 1_000_000n;

/** A consumer with credit and a key for an API whose calls go to the address. */
export async function setUp(app: App, upstreamUrl: string) {
  const developer = await newPerson(app.db, "developer");
  const consumer = await newPerson(app.db);
  const api = await app.api(developer, { upstreamUrl, callNanos: price });
  await grant(app.db, consumer.accountId, 50n * price);
  const secret = await app.key(consumer, api.id);
  const path = `/v1/call/${api.slug}/`;
  const { port } = new URL(app.url);
  return {
    developer,
    consumer,
    api,
    secret,
    path,
    /** The options of a plain request, which nobody tidies up. */
    raw: (more: RequestOptions = {}): RequestOptions => ({
      port,
      host: "127.0.0.1",
      path,
      agent: false,
      ...more,
      headers: { "x-api-key": secret, ...more.headers },
    }),
    call: (rest = "", init: RequestInit = {}) =>
      fetch(`${app.url}${path}${rest}`, {
        redirect: "manual",
        ...init,
        headers: { "x-api-key": secret, ...init.headers },
      }),
    /** What was charged and noted, once so many calls are applied. */
    async events(count = 1): Promise<{ status: number; charged: bigint }[]> {
      return asSuperuser(app, async (client) => {
        const read = () =>
          client.query(
            "select status_code, charged_nanos from usage_events where api_id = $1 order by position",
            [api.id],
          );
        await until(async () => (await read()).rows.length >= count);
        const { rows } = await read();
        return rows.map((row) => ({
          status: row.status_code,
          charged: BigInt(row.charged_nanos),
        }));
      });
    },
  };
}

/** The events of one free call. */
export const free = (status: number) => [{ status, charged: 0n }];
/** The events of one call that was charged. */
export const paid = (status: number) => [{ status, charged: price }];

/** The reason of an error. */
export async function reasonOf(response: Response): Promise<string> {
  const { details } = (await response.json()) as { details?: { reason?: string }[] };
  return details?.[0]?.reason ?? "";
}

/** Send a plain request. Resolves with the reply, once it has begun. */
export function send(options: RequestOptions, body?: Readable): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sending = request(options, resolve).on("error", reject);
    if (body === undefined) {
      sending.end();
    } else {
      body.pipe(sending);
    }
  });
}

/** Read a stream to its end. */
export async function readAll(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** In pieces of uneven sizes. */
export function* pieces(data: Buffer): Generator<Buffer> {
  for (let at = 0, length = 1; at < data.length; at += length, length = (length * 7) % 65_521) {
    yield data.subarray(at, at + length);
  }
}
