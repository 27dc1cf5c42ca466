import { randomUUID } from "node:crypto";
import { timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test as plain } from "vitest";
import { CorrectionService } from "../gen/callora/metering/v1/correction_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.ts";
import { encodeRow } from "../src/metering/codec.ts";
import { must, startTestApp } from "./support/app.ts";
import { newAccountId, usage } from "./support/books.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const hour = 60 * 60 * 1000;

/** A consumer with events, one for each age in milliseconds. */
async function setUp(app: App, ages: readonly number[]) {
  const developer = await newPerson(app.db, "developer");
  const consumer = await newPerson(app.db);
  const service = await newPerson(app.db, "super_admin");
  const api = await app.api(developer, { callNanos: 1_000n });
  const now = Date.now();
  const events = ages.map((age, index) => ({
    source: "urn:test",
    id: `${index}-${randomUUID()}`,
    accountId: consumer.accountId,
    apiId: api.id,
    time: timestampFromMs(now - age),
  }));
  if (events.length > 0) {
    await app.client(MeteringService, service.token).recordUsage({ events });
  }
  await app.applied();
  const metering = app.client(MeteringService, consumer.token);
  const idsOf = (found: readonly { event?: { id: string } | undefined }[]) =>
    found.map(({ event }) => must(event).id);
  return { now, consumer, events, metering, idsOf, ids: events.map(({ id }) => id) };
}

test("an account's events are paged newest first, each once, those of one moment too", async ({
  app,
}) => {
  const { metering, ids, idsOf } = await setUp(app, [hour, 0, 3 * hour, hour, hour, 2 * hour]);
  await setUp(app, [hour]);

  const found: string[] = [];
  let pageToken = "";
  let pages = 0;
  do {
    const page = await metering.listEvents({ pageSize: 2, pageToken });
    found.push(...idsOf(page.events));
    expect(page.watermark).toBeGreaterThanOrEqual(must(page.events[0]).position);
    pageToken = page.nextPageToken;
    pages += 1;
  } while (pageToken !== "");

  expect(pages).toBe(3);
  expect(found).toEqual([1, 4, 3, 0, 5, 2].map((index) => ids[index]));
});

test("events are listed from the start of a range to before its end, over months", async ({
  app,
}) => {
  const ages = [0, 5 * hour, 24 * hour - 60_000, 25 * hour, 39 * 24 * hour];
  const { now, metering, ids, idsOf } = await setUp(app, ages);
  const list = async (start?: number, end?: number) => {
    const { events } = await metering.listEvents({
      ...(start === undefined ? {} : { startTime: timestampFromMs(now - start) }),
      ...(end === undefined ? {} : { endTime: timestampFromMs(now - end) }),
    });
    return idsOf(events);
  };

  expect(await list()).toEqual(ids.slice(0, 3));
  expect(await list(40 * 24 * hour)).toEqual(ids);
  expect(await list(25 * hour, 5 * hour)).toEqual(ids.slice(2, 4));
  expect(await list(undefined, 5 * hour)).toEqual(ids.slice(2, 4));
  expect(await list(50 * 24 * hour, 40 * 24 * hour)).toEqual([]);
});

test("a range that ends before it begins, or a token of another list, is refused", async ({
  app,
}) => {
  const { metering, consumer } = await setUp(app, []);
  const time = timestampFromDate(new Date());
  const token = (id: string) => Buffer.from(JSON.stringify(["v1", id])).toString("base64url");

  await expect(metering.listEvents({ startTime: time, endTime: time })).rejects.toThrow(
    /start_time/,
  );
  for (const id of ["1", consumer.accountId, "1:2", "1:1:1", `${"9".repeat(18)}:1:1:1`]) {
    await expect(metering.listEvents({ pageToken: token(id) })).rejects.toThrow(/page_token/);
  }
});

test("an event that could not be applied is told from one that is not there", async ({ app }) => {
  const { metering, consumer } = await setUp(app, []);
  const { token } = await newPerson(app.db, "super_admin");
  const others = () => app.client(MeteringService, token).getWatermark({});
  const entry = (id: string) =>
    usage({ account: consumer.accountId, developer: newAccountId(), source: "s", id });
  const reasonOf = async (identity: { source: string; id: string }) => {
    const error = ConnectError.from(await metering.getEvent(identity).catch((e) => e));
    return [error.code, ...error.findDetails(ErrorInfoSchema).map(({ reason }) => reason)];
  };
  await asSuperuser(app, async (client) => {
    for (const [ordinal, state] of ["open", "dismissed"].entries()) {
      await client.query(
        `insert into usage_quarantine (shard, position, ordinal, account_id, reason, raw, state)
         values (0, 999999, $1, $2, 'POISONED', $3, $4)`,
        [ordinal, consumer.accountId, encodeRow([entry(`id-${ordinal}`)]), state],
      );
    }
  });

  expect(await reasonOf({ source: "s", id: "id-0" })).toEqual([
    Code.FailedPrecondition,
    "EVENT_QUARANTINED",
  ]);
  for (const identity of [
    { source: "s", id: "id" },
    { source: "S", id: "id-0" },
    { source: "s", id: "id-1" },
  ]) {
    expect(await reasonOf(identity)).toEqual([Code.NotFound, "NOT_FOUND"]);
  }
  expect((await metering.getWatermark({})).quarantined).toBe(1n);
  expect((await others()).quarantined).toBe(0n);
});

test("each event that waits in quarantine is found, however many others look like it", async ({
  app,
}) => {
  const { metering, consumer } = await setUp(app, []);
  const { token } = await newPerson(app.db, "super_admin");
  const admin = app.client(MeteringService, token);
  const api = await app.api(await newPerson(app.db, "developer"), { callNanos: 1_000_000_000n });
  const { accountId } = consumer;
  await app.client(CorrectionService, token).setDebtLimit({ accountId, limitNanos: 0n });
  const events = Array.from({ length: 300 }, (_, index) => ({
    source: "s",
    id: `evt-${index + 1}`,
    accountId,
    apiId: api.id,
  }));
  await admin.recordUsage({ events });
  await app.applied();
  const codeOf = async (id: string, source = "s") =>
    ConnectError.from(await metering.getEvent({ source, id }).catch((e) => e)).code;

  expect(await codeOf("evt-1")).toBe(Code.FailedPrecondition);
  expect(await codeOf("evt-300")).toBe(Code.FailedPrecondition);
  expect(await codeOf("evt-301")).toBe(Code.NotFound);
  expect(await codeOf("evt-1", "S")).toBe(Code.NotFound);
});

plain("pages without a start lose nothing while time goes on", async () => {
  let laterMs = 0;
  await using app = await startTestApp({}, { now: () => new Date(Date.now() + laterMs) });
  const { metering, ids, idsOf } = await setUp(app, [hour, 23.9 * hour]);

  const first = await metering.listEvents({ pageSize: 1 });
  laterMs = hour;
  const second = await metering.listEvents({ pageSize: 1, pageToken: first.nextPageToken });

  expect([...idsOf(first.events), ...idsOf(second.events)]).toEqual(ids);
  expect(second.nextPageToken).toBe("");
});
