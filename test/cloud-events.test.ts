import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import { connect } from "node:http2";
import { text } from "node:stream/consumers";
import { CloudEvent, emitterFor, HTTP, httpTransport, Mode } from "cloudevents";
import { expect } from "vitest";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { must, type startTestApp } from "./support/app.ts";
import { newAccountId } from "./support/books.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";
import { makeServiceToken } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Attributes = Record<string, unknown>;

const structuredType = "application/cloudevents+json";
const batchType = "application/cloudevents-batch+json";

/** A service that sends CloudEvents of a consumer's use of an API. */
async function setUp(app: App) {
  const developer = await newPerson(app.db, "developer");
  const consumer = await newPerson(app.db);
  const api = await app.api(developer, { callNanos: 1_000n });
  const { token } = await makeServiceToken(app.db, ["usage.record"]);
  const authorization = `Bearer ${token}`;
  const attributes = (more: Attributes = {}): Attributes => ({
    specversion: "1.0",
    id: randomUUID(),
    source: "urn:test",
    type: "com.example.call",
    subject: consumer.accountId,
    apiid: api.id,
    ...more,
  });

  async function post(headers: Record<string, string>, body: string, query = "") {
    const response = await fetch(`${app.url}/v1/events${query}`, {
      method: "POST",
      headers: { authorization, ...headers },
      body,
    });
    return { status: response.status, body: await response.json() };
  }

  const own = app.client(MeteringService, consumer.token);
  const get = async (id: unknown, source = "urn:test") => {
    await app.applied();
    return must((await own.getEvent({ source, id: String(id) })).event);
  };
  return { consumer, api, authorization, attributes, post, get };
}

function toHeaders(attributes: Attributes): Record<string, string> {
  return Object.fromEntries(
    Object.entries(attributes).map(([name, value]) => [`ce-${name}`, String(value)]),
  );
}

test("one event is recorded, structured or in headers, and answered as by RecordUsage", async ({
  app,
}) => {
  const { attributes, post, get } = await setUp(app);
  const inBody = attributes({ endpoint: "GET /a", statuscode: 201, testmode: true, units: 2 });
  const inHeaders = attributes({ endpoint: "GET /b", statuscode: 404 });
  const data = '{"tokens": 1.10, "big": 12345678901234567890}';

  const first = await post(
    { "content-type": `${structuredType}; charset=utf-8` },
    JSON.stringify(inBody).replace(/\}$/, `,"data":${data}}`),
  );
  const second = await post(
    { ...toHeaders(inHeaders), "content-type": "application/json; charset=utf-8" },
    data,
  );

  expect(first).toEqual({
    status: 202,
    body: { position: expect.stringMatching(/^\d+$/), results: [], watermark: expect.any(String) },
  });
  expect(second.status).toBe(202);
  expect(await get(inBody.id)).toMatchObject({
    position: BigInt(first.body.position),
    event: {
      endpoint: "GET /a",
      statusCode: 201,
      test: true,
      units: 2n,
      data: '{"tokens":1.10,"big":12345678901234567890}',
    },
  });
  expect(await get(inHeaders.id)).toMatchObject({
    chargedNanos: 1_000n,
    event: {
      endpoint: "GET /b",
      statusCode: 404,
      data: '{"tokens":1.10,"big":12345678901234567890}',
    },
  });
});

test("the same event in another mode is the same event", async ({ app }) => {
  const { attributes, post, get } = await setUp(app);
  const event = attributes({ time: new Date().toISOString() });

  await post({ "content-type": structuredType }, JSON.stringify({ ...event, data: { n: 1 } }));
  await post({ "content-type": batchType }, JSON.stringify([{ ...event, data: { n: 1 } }]));
  await post({ ...toHeaders(event), "content-type": "application/json" }, ' { "n": 1 }\n');

  expect(await get(event.id)).toMatchObject({ duplicates: 2, conflicts: 0 });
});

test("source and id are told apart, and percent-encoding is undone", async ({ app }) => {
  const { attributes, post, get } = await setUp(app);
  const identities = [
    { source: "a-b", id: "c" },
    { source: "a", id: "b-c" },
    { source: "a", id: "1:b é %" },
  ];

  for (const identity of identities) {
    const event = attributes({ ...identity, id: encodeURIComponent(identity.id) });
    expect((await post(toHeaders(event), "")).status).toBe(202);
  }

  for (const { id, source } of identities) {
    expect(await get(id, source)).toMatchObject({ duplicates: 0, conflicts: 0 });
  }
});

test("a batch is all or nothing, or each event for itself, as asked", async ({ app }) => {
  const { attributes, post, get } = await setUp(app);
  const good = attributes();
  const batch = [
    good,
    attributes({ subject: newAccountId() }),
    attributes({ source: "not a uri" }),
    attributes({ apiid: "api_x" }),
    attributes({ data: "text" }),
  ];
  const send = (query: string) => post({ "content-type": batchType }, JSON.stringify(batch), query);

  const refused = await send("");
  const taken = await send("?partial=true&wait=10s");

  expect(refused.status).toBe(400);
  const [info] = refused.body.details.filter((one: { fieldViolations?: unknown }) =>
    Boolean(one.fieldViolations),
  );
  expect(info.fieldViolations.map(({ field }: { field: string }) => field)).toEqual([
    "events[1].subject",
    "events[2].source",
    "events[3].apiid",
    "events[4].data",
  ]);
  expect(taken.status).toBe(202);
  expect(
    taken.body.results.map((one: { outcome: string; violations: { field: string }[] }) => [
      one.outcome,
      ...one.violations.map(({ field }) => field),
    ]),
  ).toEqual([
    ["USAGE_OUTCOME_APPLIED"],
    ["USAGE_OUTCOME_REJECTED", "subject"],
    ["USAGE_OUTCOME_REJECTED", "source"],
    ["USAGE_OUTCOME_REJECTED", "apiid"],
    ["USAGE_OUTCOME_REJECTED", "data"],
  ]);
  expect(await get(good.id)).toMatchObject({ duplicates: 0 });
});

test.for([Mode.BINARY, Mode.STRUCTURED])(
  "the SDK's emitter is understood: %s",
  async (mode, { app }) => {
    const { authorization, attributes, get } = await setUp(app);
    const emit = emitterFor(httpTransport(`${app.url}/v1/events`), { mode });
    const event = new CloudEvent({ ...attributes(), data: { n: 1 } } as never);

    await emit(event, { headers: { authorization } });

    expect(await get(event.id)).toMatchObject({
      chargedNanos: 1_000n,
      event: { endpoint: "com.example.call", data: '{"n":1}' },
    });
  },
);

test("events are taken over HTTP/2", async ({ app }) => {
  const { authorization, attributes, get } = await setUp(app);
  const event = new CloudEvent({ ...attributes(), data: { n: 1 } } as never);
  const { headers, body } = HTTP.binary(event);
  const session = connect(app.url);
  try {
    const stream = session.request({
      ":method": "POST",
      ":path": "/v1/events",
      authorization,
      ...Object.fromEntries(
        Object.entries(headers).map(([name, value]) => [name.toLowerCase(), String(value)]),
      ),
    });
    stream.end(String(body));
    const [response] = await once(stream, "response");
    stream.resume();
    await once(stream, "end");

    expect(response[":status"]).toBe(202);
  } finally {
    session.close();
  }
  expect(await get(event.id)).toMatchObject({ event: { data: '{"n":1}' } });
});

test.for([
  ["text/plain", "{}", 415],
  ["application/cloudevents+xml", "<e/>", 415],
  [`${structuredType}; charset=latin1`, "{}", 415],
  [structuredType, "no json", 400],
  [structuredType, "{}", 400],
  [batchType, "[]", 202],
  [batchType, `[${"1,".repeat(500)}1]`, 400],
] as const)("%s of %j is answered %i", async ([contentType, body, status], { app }) => {
  const { post } = await setUp(app);

  expect((await post({ "content-type": contentType }, body)).status).toBe(status);
});

test("a body of more than a megabyte is refused", async ({ app }) => {
  const { post } = await setUp(app);

  const { status } = await post({ "content-type": structuredType }, " ".repeat(1024 * 1024 + 1));

  expect(status).toBe(413);
});

test.for(["?partial=yes", "?wait=11s", "?wait=-1s", "?wait=2", "?wait=1e1s"])(
  "the query %s is refused",
  async (query, { app }) => {
    const { attributes, post } = await setUp(app);

    const answer = await post(toHeaders(attributes()), "", query);

    expect(answer.status).toBe(400);
  },
);

test("only those who may record usage send events", async ({ app }) => {
  const { attributes, post, consumer } = await setUp(app);
  const other = await makeServiceToken(app.db, ["keys.verify"]);
  const headers = toHeaders(attributes());
  const statusAs = async (authorization: string) =>
    (await post({ ...headers, authorization }, "")).status;

  expect(await statusAs("")).toBe(401);
  expect(await statusAs(`Bearer ${consumer.token}`)).toBe(403);
  expect(await statusAs(`Bearer ${other.token}`)).toBe(403);
});

test("a header of an attribute that comes twice is refused", async ({ app }) => {
  const { attributes, authorization } = await setUp(app);
  // fetch would join them itself.
  const headers = { ...toHeaders(attributes()), authorization, "ce-id": ["one", "another"] };
  const sent = request(`${app.url}/v1/events`, { method: "POST", headers }).end();
  const [response] = (await once(sent, "response")) as [IncomingMessage];
  const body = await text(response);

  expect(response.statusCode).toBe(400);
  expect(body).toContain("must not be there twice");
});
