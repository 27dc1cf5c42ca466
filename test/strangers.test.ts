import { randomBytes, randomInt } from "node:crypto";
import { test as base, expect } from "vitest";
import { mintSecret } from "../src/keys/secret.ts";
import { startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const test = base.extend<{ $file: { app: App } }>({
  app: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      // At a moment that does not pass no budget comes back.
      const moment = new Date();
      const env = { TRUSTED_PROXIES: "127.0.0.1" };
      await using app = await startTestApp(env, { now: () => moment });
      await use(app);
    },
    { scope: "file" },
  ],
});

const unknown = {
  "API key": () => mintSecret("live").plain,
  "API token": () => `ora_${randomBytes(32).toString("base64url")}`,
  "service token": () => `svc_${randomBytes(32).toString("base64url")}`,
  "session token": () => randomBytes(16).toString("hex"),
};

function caller(app: App, ip: string) {
  return async (token: string, path = "/api/v1/auth/me") => {
    const headers = { authorization: `Bearer ${token}`, "x-forwarded-for": ip };
    const response = await fetch(app.url + path, { headers });
    const body = (await response.json()) as { details?: { reason?: string }[] };
    return {
      status: response.status,
      retryAfter: response.headers.get("retry-after"),
      reason: body.details?.find(({ reason }) => reason !== undefined)?.reason,
    };
  };
}

/** Calls with credentials that nobody knows, until the address has no budget for another. */
async function spend(call: ReturnType<typeof caller>): Promise<number> {
  for (let count = 0; count < 1_000; count++) {
    if ((await call("nobody")).status === 429) {
      return count;
    }
  }
  throw new Error("Cannot spend the budget: it has no end");
}

test("an address whose credentials nobody knows is turned away before they are looked up", {
  timeout: 120_000,
}, async ({ app }) => {
  const { token } = await newPerson(app.db);
  const block = `2001:db8:${randomInt(1, 9999)}:1`;
  const call = caller(app, `${block}::1`);
  expect((await call(token)).status).toBe(200);

  expect(await spend(call)).toBe(600);

  const neighbour = caller(app, `${block}::2`);
  const { loads } = app.trust.stats();
  for (const [kind, make] of Object.entries(unknown)) {
    for (const path of ["/api/v1/auth/me", "/api/apis"]) {
      const answer = await neighbour(make(), path);
      const expected = { status: 429, retryAfter: "1", reason: "RATE_LIMITED" };
      expect([kind, path, answer]).toEqual([kind, path, expected]);
    }
  }
  expect(app.trust.stats().loads).toBe(loads);
  // A credential in memory is not asked about, and others are no neighbours.
  expect((await neighbour(token)).status).toBe(200);
  expect((await caller(app, "192.0.2.1")("nobody")).status).toBe(401);
});
