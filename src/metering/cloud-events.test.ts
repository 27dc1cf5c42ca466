import { CloudEvent, HTTP } from "cloudevents";
import { expect, test } from "vitest";
import { RouteError } from "../rpc/errors.ts";
import { readCloudEvents } from "./cloud-events.ts";

const account = `acc_${"0".repeat(26)}`;
const api = `api_${"0".repeat(26)}`;

const attributes = {
  specversion: "1.0",
  id: "1",
  source: "urn:test",
  type: "com.example.call",
  subject: account,
  apiid: api,
};

const usage = {
  source: "urn:test",
  id: "1",
  accountId: account,
  apiId: api,
  endpoint: "com.example.call",
  statusCode: 0,
  units: 0n,
  test: false,
  data: "",
};

function read(headers: Record<string, string>, body: string | Uint8Array = "") {
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  return readCloudEvents({ headers: Object.entries(headers), body: bytes });
}

function structured(event: unknown, contentType = "application/cloudevents+json") {
  return read({ "content-type": contentType }, JSON.stringify(event));
}

/** The fields that are wrong. */
async function wrongIn(reading: ReturnType<typeof read>) {
  const events = await reading;
  return events.map((one) =>
    "violations" in one ? one.violations.map(({ field }) => field).join() : "",
  );
}

function binary(more: Record<string, string> = {}, body = "") {
  const headers = Object.entries(attributes).map(([name, value]) => [`ce-${name}`, value]);
  return read({ ...Object.fromEntries(headers), ...more }, body);
}

test.for([
  "application/cloudevents+json",
  "application/cloudevents+json; charset=utf-8",
  'Application/CloudEvents+JSON ;charset="UTF-8"; x=y',
  "application/json",
])("one event comes as %s", async (contentType) => {
  expect(await structured(attributes, contentType)).toEqual([{ event: usage }]);
});

test.for([
  "application/cloudevents-batch+json",
  "application/cloudevents-batch+json;charset=utf-8",
  "application/json; charset=utf-8",
])("several events come as %s", async (contentType) => {
  const events = await structured([attributes, { ...attributes, id: "2" }], contentType);

  expect(events).toEqual([{ event: usage }, { event: { ...usage, id: "2" } }]);
});

test.for([
  {},
  { "content-type": "application/json; charset=utf-8" },
  { "content-type": "text/plain" },
])("an event comes in headers, with %j", async (headers) => {
  expect(await binary(headers)).toEqual([{ event: usage }]);
});

test("an event says the same in each mode", async () => {
  const more = {
    time: "2026-11-20T10:00:00.123456Z",
    endpoint: "GET /a",
    statuscode: 404,
    units: "12",
    testmode: true,
  };
  const data = '{"tokens":12.10,"big":12345678901234567890}';

  const one = JSON.stringify({ ...attributes, ...more }).replace("}", `,"data": ${data}}`);
  const [inBody] = await read({ "content-type": "application/cloudevents+json" }, one);
  const encoded = Buffer.from(data).toString("base64");
  const [inBase64] = await structured({ ...attributes, ...more, data_base64: encoded });
  const headers = Object.entries(more).map(([name, value]) => [`ce-${name}`, String(value)]);
  const [inHeaders] = await binary(Object.fromEntries(headers), data);

  expect(inBody).toMatchObject({
    event: {
      ...usage,
      endpoint: "GET /a",
      statusCode: 404,
      units: 12n,
      test: true,
      time: { seconds: 1_795_168_800n, nanos: 123_456_000 },
      data,
    },
  });
  expect(inBase64).toEqual(inBody);
  expect(inHeaders).toEqual(inBody);
});

test("what the SDK sends is read", async () => {
  const event = new CloudEvent({ ...attributes, time: "2026-11-20T10:00:00Z", data: { n: 1 } });
  const expected = [{ event: expect.objectContaining({ ...usage, data: '{"n":1}' }) }];

  for (const { headers, body } of [HTTP.structured(event), HTTP.binary(event)]) {
    const lower = Object.entries(headers).map(([name, value]) => [
      name.toLowerCase(),
      String(value),
    ]);
    expect(await read(Object.fromEntries(lower), String(body))).toEqual(expected);
  }
});

test.for([
  ["a%20b%C3%A9%25", "a bé%"],
  ['"a \\"b\\" c"', 'a "b" c'],
  ["a-b", "a-b"],
  ["%252F", "%2F"],
] as const)("a header %s is %s", async ([value, id]) => {
  expect(await binary({ "ce-id": value })).toEqual([{ event: { ...usage, id } }]);
});

test.for(["100%", "%zz", "%ff", "%c3", "%ed%a0%80", "é", "a\u0000"])(
  "a header %j is refused",
  async (value) => {
    expect(await wrongIn(binary({ "ce-id": value }))).toEqual(["id"]);
  },
);

test.for([
  [{ id: undefined }, "id"],
  [{ id: "" }, "id"],
  [{ id: 5 }, "id"],
  [{ id: null, source: null }, "id,source"],
  [{ source: "a b" }, "source"],
  [{ source: "x".repeat(3_000) }, "source"],
  [{ type: undefined }, "type"],
  [{ specversion: "0.3" }, "specversion"],
  [{ specversion: undefined }, "specversion"],
  [{ subject: 7 }, "subject"],
  [{ time: "yesterday" }, "time"],
  [{ time: "2026-02-30T00:00:00Z" }, "time"],
  [{ Extension: "x" }, ""],
  [{ validate: "x" }, ""],
  [{ constructor: {} }, "constructor"],
  [{ apiid: ["x"] }, "apiid"],
  [{ apiid: 1.5 }, ""],
  [{ statuscode: "2OO" }, "statuscode"],
  [{ statuscode: -1 }, "statuscode"],
  [{ units: "1.5" }, "units"],
  [{ units: "9".repeat(19) }, "units"],
  [{ testmode: "yes" }, "testmode"],
  [{ data: "text" }, "data"],
  [{ data: [1] }, "data"],
  [{ data: 1 }, "data"],
  [{ data: {}, data_base64: "e30=" }, "data_base64"],
  [{ data_base64: "e30" }, "data_base64"],
  [{ data_base64: "W10=" }, "data"],
  [{ data_base64: "/w==" }, "data"],
] as const)("an event with %j is refused, by the attribute", async ([more, fields]) => {
  const [first, second] = await wrongIn(
    structured([{ ...attributes, ...more }, attributes], "application/cloudevents-batch+json"),
  );

  expect(first).toBe(fields);
  expect(second).toBe("");
});

test("an event does not get its attributes from its prototype", async () => {
  const { id: _, ...rest } = attributes;
  const body = JSON.stringify(rest).replace("}", ',"__proto__":{"id":"1"}}');

  expect(await wrongIn(read({ "content-type": "application/json" }, body))).toEqual(["id"]);
});

test("an event that is no object is refused, and the others are read", async () => {
  const batch = [null, attributes, "text", [attributes], 5];

  const events = await structured(batch, "application/cloudevents-batch+json");
  expect(events.map((one) => "event" in one)).toEqual([false, true, false, false, false]);
});

test("null is the same as absent", async () => {
  const nulls = { time: null, data: null, data_base64: null, endpoint: null, units: null };

  expect(await structured({ ...attributes, ...nulls })).toEqual([{ event: usage }]);
});

test.for(["no json", "[1", `{"a":${"[".repeat(500_000)}`, ""])(
  "a body that is no JSON is refused",
  async (body) => {
    await expect(read({ "content-type": "application/json" }, body)).rejects.toThrow(/^\[invalid/);
  },
);

test.for([
  [attributes, "application/cloudevents-batch+json"],
  [[attributes], "application/cloudevents+json"],
  [Array.from({ length: 501 }, () => attributes), "application/json"],
] as const)("a body that is not what its type says is refused", async ([body, contentType]) => {
  await expect(structured(body, contentType)).rejects.toThrow(/^\[invalid/);
});

test("text that is no UTF-8 is refused", async () => {
  const body = Buffer.from(JSON.stringify({ ...attributes, id: "é" }), "latin1");

  await expect(read({ "content-type": "application/json" }, body)).rejects.toThrow(/^\[invalid/);
});

test.for([
  {},
  { "content-type": "text/plain" },
  { "content-type": "application/cloudevents+xml", "ce-specversion": "1.0" },
  { "content-type": "application/cloudevents+json; charset=latin1" },
])("a body of another type is refused: %j", async (headers) => {
  const reading = read(headers as Record<string, string>, JSON.stringify(attributes));

  const error = await reading.catch((thrown) => thrown);
  expect(error).toBeInstanceOf(RouteError);
  expect(error.httpStatus).toBe(415);
});

test("an attribute that comes twice is refused: two ids are not a third", async () => {
  const headers = Object.entries(attributes).map(([name, value]) => [`ce-${name}`, value] as const);
  const reading = readCloudEvents({
    headers: [...headers, ["ce-id", "2"]],
    body: new Uint8Array(),
  });

  expect(await reading).toEqual([
    { violations: [{ field: "id", description: "must not be there twice" }] },
  ]);
});

test("data in a header is refused, and not dropped", async () => {
  expect(await wrongIn(binary({ "ce-data": "{}" }))).toEqual(["data"]);
});

test("an extension may have any name", async () => {
  expect(await structured({ ...attributes, validate: "x" })).toEqual([{ event: usage }]);
});

test("a batch may be empty", async () => {
  expect(await structured([], "application/cloudevents-batch+json")).toEqual([]);
});

test("a type that is too long for an endpoint is named, unless there is an endpoint", async () => {
  const type = "t".repeat(201);

  expect(await wrongIn(structured({ ...attributes, type }))).toEqual(["type"]);
  expect(await wrongIn(structured({ ...attributes, type, endpoint: "e" }))).toEqual([""]);
});
