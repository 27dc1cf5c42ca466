import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { cpuMsOf } from "../../test/support/cpu.ts";
import { freeBits, type Outcome, type UnitSource } from "../catalog/price-rule.ts";
import { createUnitReader, usedUnits } from "./units.ts";

const usage: UnitSource = { path: "$.usage.total_tokens", missing: 0n };

/** What a reader finds in a reply. */
function read(
  source: UnitSource,
  { headers = {}, body = "" }: { headers?: Record<string, string>; body?: string | Buffer[] },
): bigint | null {
  const reader = createUnitReader(source, { header: (name) => headers[name] });
  for (const part of typeof body === "string" ? [Buffer.from(body)] : body) {
    reader.data(part);
  }
  return reader.units;
}

test.for([
  ["5", 5n],
  [" 5 ", 5n],
  ["0", 0n],
  ["007", 7n],
  ["99999999999999999999", 1_000_000_000_000n],
  [undefined, null],
  ["", null],
  ["-1", null],
  ["1.5", null],
  ["5, 6", null],
  ["1e3", null],
  ["9".repeat(21), null],
] as const)("a header that says %j", ([value, units]) => {
  const headers: Record<string, string> = value === undefined ? {} : { "x-units": value };

  expect(read({ header: "x-units", missing: 1n }, { headers, body: '{"x-units":9}' })).toBe(units);
});

test.for([
  ['{"usage":{"total_tokens":42}}', 42n],
  ['{"usage":{"total_tokens":"42"}}', 42n],
  ['{"usage":{"total_tokens":4.2e1}}', 42n],
  ['{"usage":{"total_tokens":0}}', 0n],
  ['{"usage":{"total_tokens":1e300}}', 1_000_000_000_000n],
  ['{"usage":{"total_tokens":-1}}', null],
  ['{"usage":{"total_tokens":1.5}}', null],
  ['{"usage":{"total_tokens":true}}', null],
  ['{"usage":{"total_tokens":null}}', null],
  ['{"usage":{"total_tokens":{}}}', null],
  ['{"usage":{"total_tokens":"12x"}}', null],
  ['{"usage":[42]}', null],
  ['{"usage":{"total_tokens":42}', null],
  ["", null],
] as const)("a reply of %j", ([body, units]) => {
  const headers = { "content-type": "application/json" };

  expect(read(usage, { headers, body })).toBe(units);
});

test("a reply that is too deep to read says nothing", () => {
  const nested = 200_000;
  const body = `{"a":${"[".repeat(nested)}${"]".repeat(nested)},"usage":{"total_tokens":[1]}}`;

  expect(read(usage, { body })).toBeNull();
});

test("a reply in parts, of which one cuts a character", () => {
  const body = Buffer.from('{"é":"é","usage":{"total_tokens":42}}');

  for (let at = 0; at <= body.length; at++) {
    expect(read(usage, { body: [body.subarray(0, at), body.subarray(at)] })).toBe(42n);
  }
});

test("a reply that is larger than 256 KiB, or compressed, says nothing", () => {
  const rest = '","usage":{"total_tokens":42}}';
  const fitting = `{"a":"${"x".repeat(256 * 1024 - 6 - rest.length)}${rest}`;

  expect(read(usage, { body: fitting })).toBe(42n);
  expect(read(usage, { body: ` ${fitting}` })).toBeNull();
  for (const encoding of ["gzip", "br, gzip"]) {
    const headers = { "content-encoding": encoding };
    expect(read(usage, { headers, body: '{"usage":{"total_tokens":1}}' })).toBeNull();
  }
  const headers = { "content-encoding": "Identity" };
  expect(read(usage, { headers, body: '{"usage":{"total_tokens":1}}' })).toBe(1n);
});

const headers = { "content-type": "text/event-stream; charset=utf-8" };

const stream = [
  ": a comment with usage and total_tokens",
  "",
  'data: {"choices":[{"delta":"é"}],"usage":null}',
  "",
  'event: x\ndata: {"usage":{"total_tokens":7}}',
  "",
  'data:{"usage":\ndata: {"total_tokens":\ndata: 42}}',
  "id: 1",
  "",
  'datax: {"usage":{"total_tokens":9}}',
  "",
  'data: {"usage":{"total_tokens":-1}}',
  "",
  "data: [DONE]",
  "",
  "",
].join("\n");

test.for(["\n", "\r", "\r\n"])(
  "of a stream with lines that end with %j the last one counts",
  (end) => {
    const bytes = Buffer.from(stream.replaceAll("\n", end));

    expect(read(usage, { headers, body: [bytes] })).toBe(42n);
    expect(read(usage, { headers, body: [Buffer.from("\ufeff"), bytes] })).toBe(42n);
    for (let at = 0; at <= bytes.length; at++) {
      const body = [bytes.subarray(0, at), bytes.subarray(at)];
      expect(read(usage, { headers, body }), `cut at ${at}`).toBe(42n);
    }
    const single = Array.from(bytes, (byte) => Buffer.from([byte]));
    expect(read(usage, { headers, body: single })).toBe(42n);
  },
);

test("units are known while a stream goes on, and nothing is lost when it is cut", () => {
  const reader = createUnitReader(usage, {
    header: (name) => (name === "content-type" ? "text/event-stream" : undefined),
  });
  const seen = [
    'data: {"usage":{"total_',
    'tokens":5}}',
    "\n\ndata: {",
    '"usage":{"total_tokens":6',
    "}}",
  ];
  const units = seen.map((part) => {
    reader.data(Buffer.from(part));
    return reader.units;
  });

  expect(units).toEqual([null, 5n, 5n, 5n, 6n]);
});

test("a byte order mark before the first event is passed by", () => {
  const body = '\ufeffdata: {"usage":{"total_tokens":5}}\n\n';

  expect(read(usage, { headers, body })).toBe(5n);
});

test("an event that is too large is passed by, however it comes", () => {
  const fits = `data: {"usage":{"total_tokens":5}}\n\n`;
  const long = `data: {"usage":{"total_tokens":6},"a":"${"x".repeat(65_536)}"}\n\n`;
  const many = `${"data:\n".repeat(70_000)}data: {"usage":{"total_tokens":6}}\n\n`;

  expect(read(usage, { headers, body: fits + long })).toBe(5n);
  expect(read(usage, { headers, body: fits + many })).toBe(5n);
  expect(read(usage, { headers, body: long + fits })).toBe(5n);
  expect(read(usage, { headers, body: [long, long, fits].map((one) => Buffer.from(one)) })).toBe(
    5n,
  );
});

test.for(["\r", "\n", "\r\n", "data:\n"])("a stream of %j alone is read in no time", (text) => {
  const chunk = Buffer.from(text.repeat((64 * 1024) / text.length));
  const reader = createUnitReader(usage, { header: (name) => headers[name as "content-type"] });
  reader.data(chunk);

  const tookMs = cpuMsOf(() => {
    for (let time = 0; time < 20; time++) {
      reader.data(chunk);
    }
  });

  // A search from each line to the end of its chunk takes twenty times as long as this.
  expect(tookMs).toBeLessThan(1_000);
});

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

function heldBytes(): number {
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

test.for([
  ["application/json", 200_000],
  ["text/event-stream", 60_000],
] as const)("a reply of %s takes no more memory when it comes byte by byte", ([type, bytes]) => {
  const reader = createUnitReader(usage, {
    header: (name) => (name === "content-type" ? type : undefined),
  });
  const before = heldBytes();

  for (let at = 0; at < bytes; at++) {
    reader.data(Buffer.from("x"));
  }

  // A buffer for each byte takes about a hundred.
  expect(heldBytes() - before).toBeLessThan(10 * bytes);
  expect(reader.units).toBeNull();
});

test("a name that JSON may write with escapes is found", () => {
  const source: UnitSource = { path: "$['to-kens']", missing: 0n };

  expect(read(source, { headers, body: 'data: {"to-kens":3}\n\n' })).toBe(3n);
  expect(read(source, { headers, body: 'data: {"to\\u002dkens":3}\n\n' })).toBe(3n);
});

test.for<[bigint | null, bigint, Outcome, number, { units: bigint; outcome: Outcome }]>([
  [5n, 9n, "whole", 0, { units: 5n, outcome: "whole" }],
  [null, 9n, "whole", 0, { units: 9n, outcome: "whole" }],
  [null, 0n, "whole", 0, { units: 1n, outcome: "no_units" }],
  [0n, 9n, "whole", 0, { units: 1n, outcome: "no_units" }],
  [0n, 9n, "failed", 0, { units: 1n, outcome: "failed" }],
  [0n, 9n, "consumer_left", 0, { units: 1n, outcome: "no_units" }],
  [0n, 9n, "consumer_left", freeBits.consumerLeft, { units: 1n, outcome: "consumer_left" }],
  [0n, 9n, "timed_out", freeBits.consumerLeft, { units: 1n, outcome: "no_units" }],
  [0n, 9n, "timed_out", freeBits.timeout, { units: 1n, outcome: "timed_out" }],
  [3n, 9n, "consumer_left", 0, { units: 3n, outcome: "consumer_left" }],
])(
  "of a reply that said %s (else %s) and ended as %s count",
  ([counted, missing, outcome, free, used]) => {
    expect(usedUnits({ source: { header: "x", missing }, free }, counted, outcome)).toEqual(used);
    expect(usedUnits({ source: null, free }, counted, outcome)).toEqual({ units: 1n, outcome });
  },
);
