import { randomUUID } from "node:crypto";
import { type IncomingMessage, type RequestOptions, request } from "node:http";
import type { Readable } from "node:stream";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  CatalogService,
  type CreateApiRequestSchema,
} from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { Mode } from "../../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../../gen/callora/keys/v1/key_service_pb.ts";
import { must, type startTestApp, until } from "./app.ts";
import { grant } from "./books.ts";
import { newPerson } from "./people.ts";
import { asSuperuser } from "./superuser.ts";

/** What else an API of a test is made with, and for which calls its consumer's key is. */
export type More = Omit<MessageInitShape<typeof CreateApiRequestSchema>, "$typeName"> & {
  mode?: Mode;
};

type App = Awaited<ReturnType<typeof startTestApp>>;

/** What a call costs, in nano-USDC. */
export const price = 1_000_000n;

/** A consumer with credit and a key for an API whose calls go to the address. */
export async function setUp(
  app: App,
  upstreamUrl: string,
  { mode = Mode.LIVE, ...wanted }: More = {},
) {
  const developer = await newPerson(app.db, "developer");
  const consumer = await newPerson(app.db);
  const catalog = app.client(CatalogService, developer.token);
  const slug = `a${randomUUID().slice(0, 12)}`;
  const name = "An API";
  const callNanos = wanted.rule === undefined ? price : 0n;
  const draft = await catalog.createApi({ name, slug, upstreamUrl, callNanos, ...wanted });
  const { api: published } = await catalog.publishApi({ apiId: must(draft.api).id });
  const api = must(published);
  await grant(app.db, consumer.accountId, 50n * price, mode === Mode.TEST ? "test" : "live");
  const keys = app.client(KeyService, consumer.token);
  const { secret } = await keys.createKey({ apiId: api.id, mode });
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
