import { randomUUID } from "node:crypto";
import { toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect } from "vitest";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import {
  MeteringService,
  type WatchEventsResponse,
  WatchEventsResponseSchema,
} from "../gen/callora/metering/v1/metering_service_pb.ts";
import { must, type startTestApp, until } from "./support/app.ts";
import { seeded } from "./support/books.ts";
import { newPerson } from "./support/people.ts";
import { open } from "./support/socket.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

async function setUp(app: App) {
  const consumer = await newPerson(app.db);
  const admin = await newPerson(app.db, "super_admin");
  const api = await app.api(await newPerson(app.db, "developer"));
  const metering = app.client(MeteringService, admin.token);
  const recordEvents = async (
    events: readonly { id: string; data?: string }[],
    accountId = consumer.accountId,
  ) => {
    const shared = { source: "urn:test", accountId, apiId: api.id };
    await metering.recordUsage({ events: events.map((event) => ({ ...shared, ...event })) });
  };
  const record = (ids: readonly string[], accountId?: string) =>
    recordEvents(
      ids.map((id) => ({ id })),
      accountId,
    );
  const watcher = app.client(MeteringService, consumer.token);
  return { consumer, record, recordEvents, watcher };
}

function idsOf({ events }: WatchEventsResponse): string[] {
  return events.map(({ event }) => must(event).id);
}

test("events come as they are applied, and from the oldest on when asked so", async ({ app }) => {
  const { record, watcher } = await setUp(app);
  await record(["a"]);
  await app.applied();
  const ended = new AbortController();
  const seen: string[] = [];

  let isFirst = true;
  for await (const answer of watcher.watchEvents({}, { signal: ended.signal })) {
    if (isFirst) {
      isFirst = false;
      expect(answer).toMatchObject({ events: [], watermark: expect.any(BigInt) });
      await record(["b", "c"]);
    }
    seen.push(...idsOf(answer));
    if (seen.length === 2) {
      break;
    }
  }
  ended.abort();
  const all = await take(watcher, "0.0", 3);

  expect(seen).toEqual(["b", "c"]);
  expect(all.ids).toEqual(["a", "b", "c"]);
});

test("a browser's page has them over a WebSocket, and a stranger has not", async ({ app }) => {
  const { consumer, record } = await setUp(app);
  await record(["a"]);
  await app.applied();
  const url = `${app.url}/v1/usage/events/socket?resume_token=0.0`;
  const { socket, texts } = open(url, ["callora.v1", `bearer.${consumer.token}`]);

  await expect.poll(() => texts.join("")).toContain('"id":"a"');
  await record(["b"]);
  await expect.poll(() => texts.join("")).toContain('"id":"b"');
  socket.close();

  expect((await open(url, ["callora.v1", "bearer.nobody"]).ended).code).toBe(401);
});

test("a stream that breaks off again and again misses no event, and repeats none", async ({
  app,
}) => {
  const { record, watcher } = await setUp(app);
  const other = await newPerson(app.db);
  const seed = Math.trunc(Math.random() * 2 ** 32);
  console.log(`watch: seed ${seed}`);
  const random = seeded(seed);
  const sent: string[] = [];
  async function send() {
    for (let request = 0; request < 60; request++) {
      const ids = Array.from({ length: 1 + Math.floor(random() * 5) }, () => randomUUID());
      sent.push(...ids);
      await record(ids);
      await record([randomUUID()], other.accountId);
    }
  }

  const sending = send();
  const seen: string[] = [];
  let token = "0.0";
  let isSent = false;
  void sending.then(() => {
    isSent = true;
  });
  while (!isSent || seen.length < sent.length) {
    const { ids, resumeToken } = await take(watcher, token, 1 + Math.floor(random() * 10), 1_000);
    seen.push(...ids);
    token = resumeToken;
  }
  await sending;

  expect(seen).toEqual(sent);
});

test("more events than an answer holds come in several", async ({ app }) => {
  const { record, watcher } = await setUp(app);
  const ids = Array.from({ length: 1_100 }, (_, index) => `e${index}`);
  for (let begin = 0; begin < ids.length; begin += 275) {
    await record(ids.slice(begin, begin + 275));
  }
  await app.applied();

  const all = await take(watcher, "0.0", ids.length);

  expect(all.ids).toEqual(ids);
  expect(all.sizes).toEqual([500, 500, 100]);
});

test("a token before removed events, or of no answer, is refused", async ({ app }) => {
  const { record, watcher } = await setUp(app);
  await record(["a"]);
  await app.applied();
  const { resumeToken } = await take(watcher, "0.0", 1);
  await asSuperuser(app, (client) =>
    client.query(
      `insert into usage_partition_totals (received_month, mode, events, charged_nanos, fee_nanos, last_position)
       values ('2020-01-01', 'live', 1, 0, 0, 1)`,
    ),
  );

  await expect(take(watcher, "0.5", 1)).rejects.toMatchObject({ code: Code.OutOfRange });
  await expect(take(watcher, "999999999.0", 1)).rejects.toMatchObject({
    code: Code.InvalidArgument,
  });
  expect((await take(watcher, "0.0", 1)).ids).toEqual(["a"]);
  expect((await take(watcher, resumeToken, 0)).ids).toEqual([]);
});

test("a stream ends soon after its key is revoked, and tells nothing after that", async ({
  app,
}) => {
  const { consumer, record } = await setUp(app);
  const api = await app.api(await newPerson(app.db, "developer"));
  const token = await app.key(consumer, api.id);
  const keys = app.client(KeyService, consumer.token);
  const keyId = must((await keys.listKeys({})).keys[0]).id;
  const answers = app.client(MeteringService, token).watchEvents({}, { signal: soon() });
  const stream = answers[Symbol.asyncIterator]();
  await stream.next();

  await keys.revokeKey({ keyId });
  const end = await codeOf(stream.next());
  await record(["late"]);

  expect(end).toBe(Code.Unauthenticated);
});

test("an account has ten streams open at most, and others have theirs", async ({ app }) => {
  const { watcher } = await setUp(app);
  const other = await setUp(app);
  const ended = new AbortController();
  const open = async (who: typeof watcher, { signal } = ended) => {
    const answers = who.watchEvents({}, { signal });
    return answers[Symbol.asyncIterator]().next();
  };
  for (let count = 0; count < 10; count += 1) {
    await open(watcher);
  }

  const refused = await codeOf(open(watcher));
  const { done } = await open(other.watcher);
  ended.abort();

  expect(refused).toBe(Code.ResourceExhausted);
  expect(done).toBe(false);
  // A place is free again once a stream has ended.
  const last = new AbortController();
  await until(async () => (await codeOf(open(watcher, last))) !== Code.ResourceExhausted);
  last.abort();
});

test("an answer stays well below what clients take, however much data events have", async ({
  app,
}) => {
  const { recordEvents, watcher } = await setUp(app);
  const data = `{"v":"${"x".repeat(16_000)}"}`;
  const ids = Array.from({ length: 300 }, (_, index) => `e${index}`);
  for (let begin = 0; begin < ids.length; begin += 60) {
    await recordEvents(ids.slice(begin, begin + 60).map((id) => ({ id, data })));
  }
  await app.applied();
  const seen: string[] = [];
  const sizes: number[] = [];

  for await (const answer of watcher.watchEvents({ resumeToken: "0.0" }, { signal: soon() })) {
    seen.push(...idsOf(answer));
    sizes.push(toBinary(WatchEventsResponseSchema, answer).length);
    if (seen.length >= ids.length) {
      break;
    }
  }

  expect(seen).toEqual(ids);
  expect(Math.max(...sizes)).toBeLessThan(1_500_000);
});

const soon = () => AbortSignal.timeout(10_000);

function codeOf(call: Promise<unknown>): Promise<Code | undefined> {
  return call.then(
    () => undefined,
    (error) => ConnectError.from(error).code,
  );
}

/** Watch until so many events came, or for a while. */
async function take(
  watcher: Awaited<ReturnType<typeof setUp>>["watcher"],
  from: string,
  count: number,
  ms = 10_000,
) {
  const ids: string[] = [];
  const sizes: number[] = [];
  let resumeToken = from;
  const signal = AbortSignal.timeout(ms);
  try {
    for await (const answer of watcher.watchEvents({ resumeToken }, { signal })) {
      ids.push(...idsOf(answer));
      sizes.push(answer.events.length);
      resumeToken = answer.resumeToken;
      if (ids.length >= count) {
        break;
      }
    }
  } catch (error) {
    if (!signal.aborted) {
      throw error;
    }
  }
  return { ids, sizes, resumeToken };
}
