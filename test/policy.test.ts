import { randomInt, randomUUID } from "node:crypto";
import type { DescMethod } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { test as base, expect } from "vitest";
import { Access, RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { platformAccountId } from "../src/ledger/store.ts";
import { methodName, methodPolicy } from "../src/rpc/policy.ts";
import { must, type Person, startTestApp } from "./support/app.ts";
import { contractMethods } from "./support/contract.ts";
import { asSuperuser } from "./support/superuser.ts";
import { makeServiceToken } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** Who calls. Each role includes those before it. */
const callerNames = [
  "nobody",
  "key",
  "service",
  "user",
  "developer",
  "admin",
  "superAdmin",
] as const;

type CallerName = (typeof callerNames)[number];

interface Caller {
  headers: Record<string, string>;
  id: string;
  accountId: string;
}

/** Whom each kind of access lets in. */
const admitted = {
  [Access.UNSPECIFIED]: [],
  [Access.PUBLIC]: callerNames,
  [Access.USER]: ["user", "developer", "admin", "superAdmin"],
  [Access.DEVELOPER]: ["developer", "admin", "superAdmin"],
  [Access.ADMIN]: ["admin", "superAdmin"],
  [Access.SUPER_ADMIN]: ["superAdmin"],
  [Access.API_KEY]: ["key"],
  [Access.USER_OR_API_KEY]: ["key", "user", "developer", "admin", "superAdmin"],
  [Access.SERVICE]: ["service", "admin", "superAdmin"],
  [Access.METRICS_KEY]: [],
  [Access.CREDENTIAL]: ["key", "service", "user", "developer", "admin", "superAdmin"],
} satisfies Record<Access, readonly CallerName[]>;

const admittedTo: Readonly<Record<number, readonly CallerName[]>> = admitted;

/** Methods that change something and leave no audit record. */
const unaudited: Readonly<Record<string, string>> = {
  "callora.metering.v1.MeteringService/RecordUsage": "the journal is the record",
  "callora.metering.v1.MeteringService/StreamUsage": "the journal is the record",
  "callora.keys.v1.KeyService/VerifyKey": "a use is counted with the key",
  "callora.keys.v1.RouterKeyService/VerifyRouterKey":
    "it changes nothing, but a key must not be in an address",
};

/** Plain routes that are not open to all. */
const mounts = [
  { method: "*", path: "/v1/call/{api}/{path=**}", access: "API_KEY", rateClass: "V1" },
  { method: "POST", path: "/v1/events", access: "SERVICE", rateClass: "INTERNAL" },
  {
    method: "GET",
    path: "/v1/credits/invoices/{month}/page",
    access: "USER",
    rateClass: "V1",
  },
  { method: "GET", path: "/api/metrics", access: "METRICS_KEY", rateClass: "NONE" },
];

const methods = await contractMethods();

const test = base.extend<{
  $file: { app: App; callers: Readonly<Record<CallerName, Caller>> };
}>({
  app: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      // So that each call can come from an address of its own.
      await using app = await startTestApp({ TRUSTED_PROXIES: "127.0.0.1" });
      await use(app);
    },
    { scope: "file" },
  ],
  callers: [async ({ app }, use) => use(await makeCallers(app)), { scope: "file" }],
});

test("every method has a whole policy, and is served under it", ({ app }) => {
  expect(methods.length).toBeGreaterThan(25);
  for (const method of methods) {
    const { access, rateClass } = methodPolicy(method);
    const route = app.routes.find(({ path }) => path === `/${methodName(method)}`);

    expect(route).toMatchObject({
      access: nameOf(Access, access),
      rateClass: nameOf(RateClass, rateClass),
    });
  }
  const served = app.routes.filter(({ path }) => path.startsWith("/callora."));
  expect(new Set(served.map(({ rpc }) => rpc))).toEqual(new Set(methods.map(methodName)));
});

test("no route is without a policy, and the routes that are not open to all are these", ({
  app,
}) => {
  const plain = app.routes.filter(({ rpc, access }) => rpc === "" && access !== "PUBLIC");

  expect(app.routes.filter(({ access }) => !(access in Access))).toEqual([]);
  expect(app.routes.filter(({ access }) => access === "UNSPECIFIED")).toEqual([]);
  expect(plain).toEqual(mounts.map((mount) => ({ ...mount, rpc: "" })));
});

test("every method that changes something names an audit action, and only those", () => {
  const { NO_SIDE_EFFECTS } = MethodOptions_IdempotencyLevel;
  for (const method of methods) {
    const changes = method.idempotency !== NO_SIDE_EFFECTS && !(methodName(method) in unaudited);

    expect([method.name, methodPolicy(method).auditAction !== ""]).toEqual([method.name, changes]);
  }
  expect(Object.keys(unaudited).every((name) => methods.some((m) => methodName(m) === name))).toBe(
    true,
  );
});

const matrix = methods.flatMap((method) =>
  callerNames.map((caller) => ({
    method,
    name: methodName(method).replace(/^callora\./, ""),
    caller,
    outcome: expectedOutcome(method, caller),
  })),
);

test.for(matrix)(
  "$name answers $caller: $outcome",
  async ({ method, caller, outcome }, { app, callers }) => {
    const { headers, id, accountId } = callers[caller];
    const requestId = randomUUID();
    const ip = `10.${randomInt(256)}.${randomInt(256)}.${randomInt(256)}`;

    const found = await callEmpty(app, method, {
      ...headers,
      "x-request-id": requestId,
      "x-forwarded-for": ip,
    });

    expect(found).toBe(outcome);
    const { auditAction } = methodPolicy(method);
    const isRecorded = auditAction !== "" && outcome !== "passed";
    expect(await refusalsOf(app, requestId)).toEqual(
      isRecorded
        ? [
            {
              account_id: accountId,
              actor_user_id: id,
              action: auditAction,
              resource: methodName(method),
              ip,
            },
          ]
        : [],
    );
  },
);

/** Paths of WebSockets: without an upgrade nobody is served there, and nobody is asked who they are. */
const sockets = ["/v1/usage/events/socket"];

test("over REST a stranger gets no further than over RPC", async ({ app }) => {
  const rest = app.routes.filter(({ rpc, path }) => rpc !== "" && path !== `/${rpc}`);
  expect(rest.length).toBeGreaterThan(25);
  for (const { method, path, rpc, access } of rest) {
    const response = await fetch(app.url + path.replace(/\{[^}]*\}/g, "x"), {
      method,
      headers: { "content-type": "application/json" },
      ...(method === "GET" ? {} : { body: "{" }),
    });

    const refusal = sockets.includes(path) ? 426 : 401;
    const isOpen = access === "PUBLIC";
    expect([rpc, response.status === refusal]).toEqual([rpc, !isOpen]);
    await response.body?.cancel();
  }
});

test.for([
  { caller: "nobody", status: 401 },
  { caller: "user", status: 403 },
  { caller: "superAdmin", status: 403 },
  { caller: "key", status: 404 },
] as const)("the gateway answers $caller $status", async ({ caller, status }, { app, callers }) => {
  const { headers } = callers[caller];

  const response = await fetch(`${app.url}/v1/call/no-such-api/x`, { headers });

  expect(response.status).toBe(status);
});

test("refusals beyond a limit are not written down, so that strangers cannot fill the log", async ({
  app,
}) => {
  const requestId = randomUUID();
  const statuses: number[] = [];
  // Some beyond the limit, however much of it comes back while a slow machine makes the calls.
  while (statuses.filter((status) => status === 429).length < 20 && statuses.length < 2_000) {
    const response = await fetch(`${app.url}/api/keys`, {
      method: "POST",
      headers: { "x-request-id": requestId, "x-forwarded-for": "203.0.113.77" },
    });
    await response.body?.cancel();
    statuses.push(response.status);
  }

  const written = statuses.filter((status) => status === 401).length;
  expect(await refusalsOf(app, requestId)).toHaveLength(written);
  expect(statuses).toContain(429);
  expect(written).toBeGreaterThanOrEqual(120);
});

function nameOf(values: Readonly<Record<string, number>>, wanted: number): string | undefined {
  return Object.keys(values).find((name) => values[name] === wanted);
}

function expectedOutcome(method: DescMethod, caller: CallerName): string {
  const names = admittedTo[methodPolicy(method).access];
  if (names?.includes(caller)) {
    return "passed";
  }
  return caller === "nobody" ? "CREDENTIALS_REQUIRED" : "ACCESS_DENIED";
}

async function makeCallers(app: App): Promise<Record<CallerName, Caller>> {
  const [user, developer] = [await app.person("USER"), await app.person("DEVELOPER")];
  const [admin, superAdmin] = [await app.person("ADMIN"), await app.person("SUPER_ADMIN")];
  const api = await app.api(developer);
  const secret = await app.key(user, api.id);
  const keyId = await asSuperuser(app, async (client) => {
    const { rows } = await client.query("select id from api_keys");
    return String(rows[0].id);
  });
  const service = await makeServiceToken(app.db, ["keys.verify", "usage.record"]);
  const toCaller = ({ token, id, accountId }: Person): Caller => ({
    headers: { authorization: `Bearer ${token}` },
    id,
    accountId,
  });
  return {
    nobody: { headers: {}, id: "", accountId: "" },
    key: { headers: { "x-api-key": secret }, id: keyId, accountId: user.accountId },
    service: {
      headers: { authorization: `Bearer ${service.token}` },
      id: service.id,
      accountId: platformAccountId,
    },
    user: toCaller(user),
    developer: toCaller(developer),
    admin: toCaller(admin),
    superAdmin: toCaller(superAdmin),
  };
}

/** Call with an empty message, over the Connect protocol. The reason of a refusal, else "passed". */
async function callEmpty(
  app: App,
  method: DescMethod,
  headers: Record<string, string>,
): Promise<string> {
  const isUnary = method.methodKind === "unary";
  const response = await fetch(`${app.url}/${methodName(method)}`, {
    method: "POST",
    headers: {
      ...headers,
      "content-type": isUnary ? "application/json" : "application/connect+json",
    },
    // A message of a stream has a flag and its length in front.
    body: isUnary ? "{}" : "\0\0\0\0\u0002{}",
    signal: AbortSignal.timeout(10_000),
  });
  const text = isUnary ? await response.text() : await firstPart(response);
  return /"reason":\s*"(CREDENTIALS_REQUIRED|ACCESS_DENIED)"/.exec(text)?.[1] ?? "passed";
}

/** A stream that is let in may go on for ever. One that is refused says so at once. */
async function firstPart({ body }: Response): Promise<string> {
  const reader = must(body).getReader();
  const { value } = await reader.read();
  await reader.cancel();
  return Buffer.from(value ?? []).toString();
}

function refusalsOf(app: App, requestId: string): Promise<unknown[]> {
  return asSuperuser(app, async (client) => {
    const { rows } = await client.query(
      `select account_id, actor_user_id, action, resource, host(ip) as ip from audit_logs
       where request_id = $1 and outcome = 'refused'`,
      [requestId],
    );
    return rows;
  });
}
