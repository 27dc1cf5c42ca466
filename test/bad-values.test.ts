import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { test as base, expect } from "vitest";
import { encodePageToken } from "../src/lib/page-token.ts";
import { methodName } from "../src/rpc/policy.ts";
import { must, startTestApp } from "./support/app.ts";
import { createCaller } from "./support/caller.ts";
import { expectClean } from "./support/clean.ts";
import { contractMethods } from "./support/contract.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const test = base.extend<{
  $file: { app: App; headersOf: () => Promise<Record<string, string>> };
}>({
  app: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using app = await startTestApp({ TRUSTED_PROXIES: "127.0.0.1" });
      await use(app);
    },
    { scope: "file" },
  ],
  headersOf: [async ({ app }, use) => use(createCaller(app)), { scope: "file" }],
});

const methods = await contractMethods();

const lists = methods.filter(({ input }) => input.fields.some(({ name }) => name === "page_token"));
/** What a list must be told besides, for its page to be looked at. */
const needed: Readonly<Record<string, object>> = {
  ListPrices: { apiId: "api_00000000000000000000000000" },
};
const token = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");

test.for(
  lists.flatMap((method) =>
    [
      "zzz",
      "=",
      token(["v1", "\0"]),
      token(["v2", "x"]),
      token([]),
      token(["v1", 1]),
      "x".repeat(513),
    ].map((pageToken) => ({ method, name: method.name, pageToken })),
  ),
)("$name refuses the page token $pageToken", async ({ method, pageToken }, { app, headersOf }) => {
  const { code, text } = await callJson(app, method, {
    headers: await headersOf(),
    body: { ...needed[method.name], pageToken },
  });

  expect([code, text]).toEqual(["invalid_argument", expect.stringContaining("page_token")]);
});

test.for(lists.map((method) => ({ method, name: method.name })))(
  "$name refuses pages of 251",
  async ({ method }, { app, headersOf }) => {
    const { code, text } = await callJson(app, method, {
      headers: await headersOf(),
      body: { pageSize: 251 },
    });

    expect([code, text]).toEqual(["invalid_argument", expect.stringContaining("page_size")]);
  },
);

test("a page token of another list is refused, or finds nothing", async ({ app, headersOf }) => {
  const audit = must(lists.find(({ name }) => name === "AdminListAuditLogs"));
  const pageToken = encodePageToken("key_00000000000000000000000000");

  const { code } = await callJson(app, audit, { headers: await headersOf(), body: { pageToken } });

  expect(code).toBe("invalid_argument");
});

const withIds = methods.flatMap((method) =>
  method.input.fields
    .filter(({ name }) => name.endsWith("_id"))
    .map((field) => ({ method, name: method.name, field: field.name })),
);

test.for(withIds)(
  "$name refuses a $field that is none, and names it",
  async (row, { app, headersOf }) => {
    for (const id of ["x", "'; drop table users; --", "api_00000000000000000000000000\n", "../x"]) {
      const body = { [row.field]: id };
      const { code, text } = await callJson(app, row.method, { headers: await headersOf(), body });

      expect([code, text]).toEqual(["invalid_argument", expect.stringContaining(row.field)]);
    }
  },
);

const hostile = [
  "\0",
  "x".repeat(100_000),
  "'; drop table users; --",
  "%s%n",
  "🐎",
  -1,
  1e300,
  0.5,
  null,
  [],
  {},
  true,
];
/** Answers that say the server failed, or did not look at the value. */
const tooLittle = ["internal", "unknown", "unauthenticated", "resource_exhausted"];
const hostileNumbers = ["9223372036854775808", "-9223372036854775809", "NaN", "1e400", 4294967296];

test.for(methods.map((method) => ({ method, name: methodName(method) })))(
  "$name answers hostile values without failing",
  async ({ method }, { app, headersOf }) => {
    const failures: unknown[] = [];
    for (const body of hostileBodies(method.input)) {
      const { status, code, text } = await callJson(app, method, {
        headers: await headersOf(),
        body,
      });
      if (status >= 500 || tooLittle.includes(code)) {
        failures.push({ body, status, text });
      }
      expectClean(text);
    }

    expect(failures).toEqual([]);
  },
);

async function callJson(
  app: App,
  method: (typeof methods)[number],
  { headers, body }: { headers: Record<string, string>; body: unknown },
): Promise<{ status: number; code: string; text: string }> {
  const response = await fetch(`${app.url}/${methodName(method)}`, {
    method: "POST",
    headers: { ...headers, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  const code = /^\{"code":"(\w+)"/.exec(text)?.[1] ?? "ok";
  return { status: response.status, code, text };
}

/** One body for each field and hostile value, lists and messages within them included. */
function* hostileBodies(desc: DescMessage): Generator<Record<string, unknown>> {
  for (const field of desc.fields) {
    const values = isNumber(field) ? [...hostile, ...hostileNumbers] : hostile;
    for (const value of values) {
      yield { [field.name]: value };
      if (field.fieldKind === "list") {
        yield { [field.name]: [value] };
      }
    }
    if (field.fieldKind === "list" && field.message !== undefined) {
      for (const inner of hostileBodies(field.message)) {
        yield { [field.name]: [inner] };
      }
    }
  }
}

function isNumber(field: DescField): boolean {
  return (
    field.fieldKind === "scalar" &&
    field.scalar !== ScalarType.STRING &&
    field.scalar !== ScalarType.BOOL
  );
}
