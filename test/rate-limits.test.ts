import { type Client, Code } from "@connectrpc/connect";
import { describe, expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { LimitService } from "../gen/callora/limits/v1/limit_service_pb.ts";
import { RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { must, type Person, password, startTestApp, until } from "./support/app.ts";
import { isWithoutRedis, startRedis } from "./support/redis.ts";
import { test as base } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const test = base.extend<{ $file: { limits: Client<typeof LimitService> } }>({
  limits: [
    async ({ app }, use) => {
      const { accountId, id: subjectId, token } = await app.admin();
      const limits = app.client(LimitService, token);
      // These tests alone make more calls than admins may.
      const own = { accountId, subjectId, rateClass: RateClass.ADMIN };
      await limits.setRateOverride({ ...own, perMinute: 60_000 });
      await use(limits);
    },
    { scope: "file" },
  ],
});

/** A call of the console's class, as its caller sees it. */
async function readConsole(app: App, { token }: { token: string }): Promise<Response> {
  const reply = await fetch(`${app.url}/api/audit-logs`, {
    headers: { authorization: `Bearer ${token}` },
  });
  await reply.body?.cancel();
  return reply;
}

/** A call through the gateway, to an API that is not there. */
async function callGateway(app: App, secret: string): Promise<Response> {
  return fetch(`${app.url}/v1/call/no-such-api/x`, { headers: { "x-api-key": secret } });
}

const limitOf = (reply: Response) => reply.headers.get("x-ratelimit-limit");

async function makeKey(app: App, owner: Person) {
  const { id: apiId } = await app.api(await app.person("DEVELOPER"));
  const { key, secret } = await app.client(KeyService, owner.token).createKey({ apiId });
  return { keyId: must(key).id, secret };
}

test("a person's own rate counts from the answer on, until it is deleted", async ({
  app,
  limits,
}) => {
  const [person, other] = [await app.person(), await app.person()];
  const whose = { accountId: person.accountId, subjectId: person.id };
  const override = { ...whose, rateClass: RateClass.CONSOLE };

  const set = await limits.setRateOverride({ ...override, perMinute: 1, burst: 2 });
  const statuses = [];
  for (let call = 0; call < 3; call++) {
    statuses.push((await readConsole(app, person)).status);
  }
  const others = limitOf(await readConsole(app, other));
  await limits.setRateOverride({ ...override, perMinute: 6_000_000 });
  const raised = limitOf(await readConsole(app, person));
  await limits.deleteRateOverride(override);
  await limits.deleteRateOverride(override);
  const after = limitOf(await readConsole(app, person));

  expect(set.override).toMatchObject({ ...override, perMinute: 1, burst: 2 });
  expect(statuses).toEqual([200, 200, 429]);
  expect({ others, raised, after }).toEqual({ others: "60", raised: "1000000", after: "60" });
});

test("a key's own rate counts for that key alone", async ({ app, limits }) => {
  const [owner, other] = [await app.person(), await app.person()];
  const { keyId, secret } = await makeKey(app, owner);
  const { secret: otherSecret } = await makeKey(app, other);
  const whose = { accountId: owner.accountId, subjectId: keyId };

  await limits.setRateOverride({ ...whose, rateClass: RateClass.V1, perMinute: 2_000, burst: 7 });

  expect(limitOf(await callGateway(app, secret))).toBe("7");
  expect(limitOf(await callGateway(app, otherSecret))).toBe("100");
});

test("a rotation sheds neither a key's own rate nor what was counted", async ({ app, limits }) => {
  const owner = await app.person();
  const first = await makeKey(app, owner);
  const rotate = async ({ keyId }: { keyId: string }) => {
    const { key, secret } = await app.client(KeyService, owner.token).rotateKey({ keyId });
    return { keyId: must(key).id, secret };
  };
  const whose = { accountId: owner.accountId, rateClass: RateClass.V1 };
  const left = async (secret: string) => {
    const { headers } = await callGateway(app, secret);
    return [headers.get("x-ratelimit-limit"), headers.get("x-ratelimit-remaining")];
  };

  const { override } = await limits.setRateOverride({
    ...whose,
    subjectId: first.keyId,
    perMinute: 1,
    burst: 7,
  });
  const before = await left(first.secret);
  const second = await rotate(first);
  const after = await left(second.secret);
  const third = await rotate(second);
  await limits.deleteRateOverride({ ...whose, subjectId: third.keyId });

  expect(override?.subjectId).toBe(first.keyId);
  expect([before, after]).toEqual([
    ["7", "6"],
    ["7", "5"],
  ]);
  expect((await left(third.secret))[0]).toBe("100");
});

test("the overrides are listed by account, page by page, over REST too", async ({
  app,
  limits,
}) => {
  const { token } = await app.admin();
  const { accountId, id: subjectId } = await app.person();
  const classes = [RateClass.CONSOLE, RateClass.MONITOR, RateClass.V1];
  for (const rateClass of classes) {
    await limits.setRateOverride({ accountId, subjectId, rateClass, perMinute: 5 });
  }

  const first = await limits.listRateOverrides({ accountId, pageSize: 2 });
  const { nextPageToken: pageToken } = first;
  const second = await limits.listRateOverrides({ accountId, pageSize: 2, pageToken });
  const all = await limits.listRateOverrides({ pageSize: 250 });
  const rest = await fetch(`${app.url}/api/admin/rate-limits?accountId=${accountId}`, {
    headers: { authorization: `Bearer ${token}` },
  });

  const listed = [...first.overrides, ...second.overrides].map((one) => one.rateClass);
  expect(listed).toEqual(classes);
  expect(second.nextPageToken).toBe("");
  expect(all.overrides.length).toBeGreaterThanOrEqual(3);
  expect((await rest.json()).overrides).toContainEqual(
    expect.objectContaining({ subjectId, rateClass: "RATE_CLASS_V1", perMinute: 5, burst: 5 }),
  );
});

test("over REST a rate is put and deleted under its owner's path", async ({ app }) => {
  const { token } = await app.admin();
  const person = await app.person();
  const path = `${app.url}/api/admin/rate-limits/${person.accountId}/${person.id}`;
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const body = JSON.stringify({ rateClass: "RATE_CLASS_CONSOLE", perMinute: 120 });

  const put = await fetch(path, { method: "PUT", headers, body });
  const during = limitOf(await readConsole(app, person));
  const deleted = await fetch(`${path}?rateClass=RATE_CLASS_CONSOLE`, {
    method: "DELETE",
    headers: { authorization: `Bearer ${token}` },
  });

  expect([put.status, deleted.status]).toEqual([200, 200]);
  expect(during).toBe("120");
  expect(limitOf(await readConsole(app, person))).toBe("60");
});

test.for([
  { name: "an address's class", change: { rateClass: RateClass.LOGIN } },
  { name: "no class", change: { rateClass: RateClass.UNSPECIFIED } },
  { name: "no rate", change: { perMinute: 0 } },
  { name: "a burst of more than a day", change: { perMinute: 1, burst: 1441 } },
  { name: "no subject of ours", change: { subjectId: "acc_00000000000000000000000000" } },
])("$name is no override", async ({ change }, { app, limits }) => {
  const { accountId, id: subjectId } = await app.person();
  const override = { accountId, subjectId, rateClass: RateClass.V1, perMinute: 5 };

  const set = limits.setRateOverride({ ...override, ...change });

  await expect(set).rejects.toMatchObject({ code: Code.InvalidArgument });
});

test("a person of another account is not found, and gets no rate", async ({ app, limits }) => {
  const [one, other] = [await app.person(), await app.person()];
  const { keyId } = await makeKey(app, other);
  for (const subjectId of [other.id, keyId]) {
    const override = { accountId: one.accountId, subjectId, rateClass: RateClass.V1, perMinute: 5 };

    const set = limits.setRateOverride(override);

    await expect(set).rejects.toMatchObject({ code: Code.NotFound });
  }
});

test("whatever a stranger presents, the address counts", async ({ app }) => {
  const remaining: number[] = [];
  for (const credential of ["Bearer a", "Bearer b", `Bearer cs_${"x".repeat(43)}`]) {
    const reply = await fetch(`${app.url}/api/apis`, { headers: { authorization: credential } });
    remaining.push(Number(reply.headers.get("x-ratelimit-remaining")));
  }

  const [first = 0, , last] = remaining;
  expect(first).toBeGreaterThan(0);
  expect(last).toBeLessThan(first);
});

describe.skipIf(isWithoutRedis)("with Redis", () => {
  test("two servers on one Redis count an address together", async () => {
    await using redis = await startRedis();
    await using one = await startTestApp({ REDIS_URL: redis.url });
    await using two = await startTestApp({ REDIS_URL: redis.url });
    const codes: string[] = [];
    // All at once: a sixth is allowed after 6 s, and passwords are hashed for long where much else runs.
    const calls = Array.from({ length: 8 }, async (_, call) => {
      const login = (call % 2 ? one : two).client(AuthService).passwordLogin({
        username: "root",
        password: "a wrong password",
      });
      codes.push(await login.then(String, (error) => String(Code[error.code])));
    });
    await until(() => codes.filter((code) => code === "ResourceExhausted").length === 3);
    const right = one.client(AuthService).passwordLogin({ username: "root", password });
    await expect(right).rejects.toMatchObject({ code: Code.ResourceExhausted });
    await Promise.all(calls);

    expect(codes.toSorted()).toEqual([
      ...Array(3).fill("ResourceExhausted"),
      ...Array(5).fill("Unauthenticated"),
    ]);
  });

  test("while Redis is away keys are refused, people counted, and both recorded", async () => {
    await using redis = await startRedis();
    // At a moment that does not pass nothing comes back between two calls that are counted.
    const moment = new Date();
    await using app = await startTestApp({ REDIS_URL: redis.url }, { now: () => moment });
    const person = await app.person();
    const { secret } = await makeKey(app, person);
    const told = (text: string) => app.lines.filter((line) => line.includes(text));
    const metric = async (name: string) => {
      const text = await (await fetch(`${app.url}/api/metrics`)).text();
      return text.split("\n").filter((line) => line.startsWith(`callora_rate_limit_${name}`));
    };
    const here = await metric("redis_up");

    await redis.kill();
    await until(() => told("Cannot count the rate limits in Redis").length > 0);
    const key = await callGateway(app, secret);
    const people = [await readConsole(app, person), await readConsole(app, person)];
    const away = [...(await metric("redis_up")), ...(await metric("redis_away_total"))];
    await redis.restart();
    await until(() => told("Redis counts the rate limits").length > 1);
    const again = await callGateway(app, secret);

    expect(here).toEqual(["callora_rate_limit_redis_up 1"]);
    expect(key.status).toBe(503);
    expect(key.headers.get("retry-after")).toBe("1");
    expect(JSON.stringify(await key.json())).toContain("LIMITER_UNAVAILABLE");
    expect(people.map(({ status }) => status)).toEqual([200, 200]);
    expect(people.map((reply) => reply.headers.get("x-ratelimit-remaining"))).toEqual(["59", "58"]);
    expect(away).toEqual([
      "callora_rate_limit_redis_up 0",
      'callora_rate_limit_redis_away_total{decision="refused"} 1',
      'callora_rate_limit_redis_away_total{decision="counted_alone"} 2',
    ]);
    expect(again.status).toBe(404);
    expect(limitOf(again)).toBe("100");
    expect(told("Cannot count the rate limits in Redis")).toHaveLength(1);
    expect(app.lines.join("\n")).not.toContain("unhandled");
  });
});
