import { randomUUID } from "node:crypto";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect } from "vitest";
import { SecretService } from "../gen/callora/credentials/v1/secret_service_pb.ts";
import { enabledProviders, openSecret } from "../src/credentials/store.ts";
import { must, type startTestApp, testSealer } from "./support/app.ts";
import { newPerson, type SignedIn } from "./support/people.ts";
import { restOf } from "./support/rest.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const bedrock = {
  region: "us-east-1",
  accessKeyId: "AKIAIOSFODNN7EXAMPLE",
  secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};

test("secrets are set, listed, disabled and removed over REST", async ({ app }) => {
  const call = restOf(app, await newPerson(app.db));

  expect(await call("GET", "/v1/secret")).toEqual([200, { providers: {} }]);
  expect(await call("POST", "/v1/secret", { provider: "amazon-bedrock", keys: bedrock })).toEqual([
    200,
    { success: true },
  ]);
  expect(
    await call("POST", "/v1/secret", { provider: "openai", keys: { apiKey: "sk-abc" } }),
  ).toEqual([200, { success: true }]);
  expect(await call("PATCH", "/v1/secret/openai", { enabled: false })).toEqual([
    200,
    { success: true, enabled: false },
  ]);
  expect(await call("GET", "/v1/secret")).toEqual([
    200,
    {
      providers: {
        "amazon-bedrock": { fields: ["accessKeyId", "region", "secretAccessKey"], enabled: true },
        openai: { fields: ["apiKey"], enabled: false },
      },
    },
  ]);
  expect(await call("DELETE", "/v1/secret/openai")).toEqual([200, { success: true }]);
  expect(await call("DELETE", "/v1/secret/openai")).toEqual([200, { success: true }]);
  expect(await call("DELETE", "/v1/secret/never.was:there@all")).toEqual([200, { success: true }]);
  const [, listed] = await call("GET", "/v1/secret");
  expect(listed).toMatchObject({ providers: { "amazon-bedrock": { enabled: true } } });
  expect(listed).not.toHaveProperty(["providers", "openai"]);
});

test("the same over gRPC", async ({ app }) => {
  const secrets = grpcOf(app, await newPerson(app.db));

  expect(
    await secrets.putSecret({ provider: "anthropic", keys: { apiKey: "sk-ant-x" } }),
  ).toMatchObject({ success: true });
  expect(await secrets.setSecretEnabled({ provider: "anthropic", enabled: false })).toMatchObject({
    success: true,
    enabled: false,
  });
  expect((await secrets.listSecrets({})).providers).toMatchObject({
    anthropic: { fields: ["apiKey"], enabled: false },
  });
  await secrets.deleteSecret({ provider: "anthropic" });
  await secrets.deleteSecret({ provider: "anthropic" });
  expect((await secrets.listSecrets({})).providers).toEqual({});
});

test("enabling what is not configured is a 404 that says so", async ({ app }) => {
  const me = await newPerson(app.db);
  const call = restOf(app, me);
  const requestId = randomUUID();

  const [status, body] = await call("PATCH", "/v1/secret/openai", { enabled: true }, requestId);

  expect(status).toBe(404);
  expect(body).toMatchObject({ code: Code.NotFound, message: "Provider 'openai' not configured" });
  expect(await auditOf(app, requestId)).toEqual([]);
});

test("a second write merges, replaces and keeps the state", async ({ app }) => {
  const me = await newPerson(app.db);
  const secrets = app.client(SecretService, me.token);
  await secrets.putSecret({ provider: "openai", keys: { apiKey: "sk-old", organization: "org" } });
  await secrets.setSecretEnabled({ provider: "openai", enabled: false });

  await secrets.putSecret({ provider: "openai", keys: { apiKey: "sk-new", project: "p" } });

  expect((await secrets.listSecrets({})).providers).toMatchObject({
    openai: { fields: ["apiKey", "organization", "project"], enabled: false },
  });
  expect(await opened(app, me, "openai")).toBeNull();
  await secrets.setSecretEnabled({ provider: "openai", enabled: true });
  const secret = must(await opened(app, me, "openai"));
  expect(["apiKey", "organization", "project"].map(secret.value)).toEqual(["sk-new", "org", "p"]);
});

test("a provider that was removed while disabled is enabled when it comes back, without its old fields", async ({
  app,
}) => {
  const me = await newPerson(app.db);
  const secrets = app.client(SecretService, me.token);
  await secrets.putSecret({ provider: "openai", keys: { apiKey: "sk-old", organization: "org" } });
  await secrets.setSecretEnabled({ provider: "openai", enabled: false });
  await secrets.deleteSecret({ provider: "openai" });

  await secrets.putSecret({ provider: "openai", keys: { apiKey: "sk-new" } });

  expect((await secrets.listSecrets({})).providers).toMatchObject({
    openai: { fields: ["apiKey"], enabled: true },
  });
  expect(await enabled(app, me)).toEqual(["openai"]);
  expect(must(await opened(app, me, "openai")).value("organization")).toBeUndefined();
});

test("the enabled providers are those that are there and not disabled, in order", async ({
  app,
}) => {
  const me = await newPerson(app.db);
  const secrets = app.client(SecretService, me.token);
  for (const provider of ["zeta", "openai", "Alpha", "gone", "disabled"]) {
    await secrets.putSecret({ provider, keys: { apiKey: "sk-x" } });
  }
  await secrets.deleteSecret({ provider: "gone" });
  await secrets.setSecretEnabled({ provider: "disabled", enabled: false });

  expect(await enabled(app, me)).toEqual(["Alpha", "openai", "zeta"]);
});

test("another tenant's secrets cannot be seen, opened, changed or removed", async ({ app }) => {
  const [mine, theirs] = [await newPerson(app.db), await newPerson(app.db)];
  const their = app.client(SecretService, theirs.token);
  const my = app.client(SecretService, mine.token);
  await their.putSecret({ provider: "openai", keys: { apiKey: "sk-theirs" } });
  const before = await rowsOf(app, theirs);
  expect(before).toHaveLength(1);

  const change = my.setSecretEnabled({ provider: "openai", enabled: false });

  await expect(change).rejects.toMatchObject({ code: Code.NotFound });
  expect((await my.listSecrets({})).providers).toEqual({});
  await my.deleteSecret({ provider: "openai" });
  await my.putSecret({ provider: "openai", keys: { apiKey: "sk-mine" } });
  expect(await rowsOf(app, theirs)).toEqual(before);
  expect(must(await opened(app, theirs, "openai")).value("apiKey")).toBe("sk-theirs");
  const crossed = app.db.tenantRead(mine.accountId, (tx) =>
    openSecret(tx, testSealer, { ...refOf(theirs), provider: "openai" }),
  );
  expect(await crossed).toBeNull();
});

test("strangers and API keys are turned away", async ({ app }) => {
  const api = await app.api(await newPerson(app.db, "developer"));
  const key = await app.key(await newPerson(app.db), api.id);

  for (const token of [undefined, key]) {
    const secrets = app.client(SecretService, token);
    const codes = await Promise.all(
      [
        secrets.listSecrets({}),
        secrets.putSecret({ provider: "openai", keys: { apiKey: "sk-x" } }),
        secrets.setSecretEnabled({ provider: "openai", enabled: true }),
        secrets.deleteSecret({ provider: "openai" }),
      ].map((call) => call.then(() => "ok").catch((error) => ConnectError.from(error).code)),
    );
    const code = token === undefined ? Code.Unauthenticated : Code.PermissionDenied;
    expect(codes).toEqual([code, code, code, code]);
  }
});

test("every change is in the audit log with its fields, and a removal of nothing is not", async ({
  app,
}) => {
  const me = await newPerson(app.db);
  const call = restOf(app, me);
  const ids = Array.from({ length: 4 }, () => randomUUID());
  await call("POST", "/v1/secret", { provider: "amazon-bedrock", keys: bedrock }, ids[0]);
  await call("PATCH", "/v1/secret/amazon-bedrock", { enabled: false }, ids[1]);
  await call("DELETE", "/v1/secret/amazon-bedrock", undefined, ids[2]);
  await call("DELETE", "/v1/secret/amazon-bedrock", undefined, ids[3]);

  const records = await Promise.all(ids.map((id) => auditOf(app, id)));

  const resource = "secret:amazon-bedrock";
  const detail = "set accessKeyId, region, secretAccessKey";
  expect(records).toEqual([
    [{ action: "secret.put", resource, detail, outcome: "done" }],
    [{ action: "secret.set_enabled", resource, detail: "disabled", outcome: "done" }],
    [{ action: "secret.delete", resource, detail: "", outcome: "done" }],
    [],
  ]);
});

test.for([
  { field: "provider", body: { provider: "a/b", keys: { token: "x" } } },
  { field: "provider", body: { provider: "", keys: { token: "x" } } },
  { field: "provider", body: { provider: "__proto__", keys: { token: "x" } } },
  { field: "keys", body: { provider: "other", keys: {} } },
  { field: "keys", body: { provider: "other" } },
  { field: 'keys["token"]', body: { provider: "other", keys: { token: "" } } },
  { field: 'keys["a-b"]', body: { provider: "other", keys: { "a-b": "x" } } },
  { field: 'keys["token"]', body: { provider: "other", keys: { token: "x".repeat(8_193) } } },
  { field: 'keys["token"]', body: { provider: "other", keys: { token: "planted-value\u0007" } } },
  { field: 'keys["token"]', body: { provider: "other", keys: { token: "planted-value\0" } } },
  { field: 'keys["apiKey"]', body: { provider: "openai", keys: { apiKey: "planted-value" } } },
  { field: 'keys["apiKey"]', body: { provider: "anthropic", keys: { apiKey: "planted-value" } } },
  {
    field: 'keys["region"]',
    body: { provider: "amazon-bedrock", keys: { region: "planted-value" } },
  },
  { field: "keys", body: { provider: "other", keys: { token: ["planted-value"] } } },
  { field: "keys", body: { provider: "other", keys: { token: 424242424242 } } },
  { field: "keys", body: { provider: "other", keys: "planted-value" } },
])("a wrong $field is refused by name, without its value: %#", async ({ field, body }, { app }) => {
  const me = await newPerson(app.db);

  const [status, answer] = await restOf(app, me)("POST", "/v1/secret", body);

  const text = JSON.stringify(answer);
  expect(status).toBe(400);
  expect((answer as { message: string }).message).toContain(field);
  expect(text).not.toMatch(/planted-value|424242|xxx/);
  expect(await rowsOf(app, me)).toEqual([]);
});

test("a missing enabled, and a provider that is none, are refused", async ({ app }) => {
  const call = restOf(app, await newPerson(app.db));
  await call("POST", "/v1/secret", { provider: "openai", keys: { apiKey: "sk-x" } });

  const answers = [
    await call("PATCH", "/v1/secret/openai", {}),
    await call("PATCH", "/v1/secret/open%20ai", { enabled: false }),
    await call("DELETE", "/v1/secret/open%2Fai"),
  ];

  expect(answers.map(([status]) => status)).toEqual([400, 400, 400]);
  expect(await call("GET", "/v1/secret")).toEqual([
    200,
    { providers: { openai: { fields: ["apiKey"], enabled: true } } },
  ]);
});

test("one provider has at most 32 fields and 64 KiB, an account at most 100 providers", async ({
  app,
}) => {
  const me = await newPerson(app.db);
  const secrets = app.client(SecretService, me.token);
  const many = (from: number, count: number, length = 1) =>
    Object.fromEntries(
      Array.from({ length: count }, (_, index) => [`f${from + index}`, "x".repeat(length)]),
    );
  await secrets.putSecret({ provider: "first", keys: many(0, 32) });

  const grown = secrets.putSecret({ provider: "first", keys: many(32, 1) });
  await expect(grown).rejects.toMatchObject({ code: Code.FailedPrecondition });
  const long = secrets.putSecret({ provider: "long", keys: many(0, 9, 8_192) });
  await expect(long).rejects.toMatchObject({ code: Code.FailedPrecondition });
  await asSuperuser(app, (client) =>
    client.query(
      `insert into credentials (account_id, id, provider, environment, fields, sealed)
       select account_id, 'crd_' || lpad(n::text, 26, '0'), 'p' || n, environment, fields, sealed
       from credentials, generate_series(1, 98) as n where account_id = $1`,
      [me.accountId],
    ),
  );
  await secrets.putSecret({ provider: "hundredth", keys: { token: "x" } });
  const more = secrets.putSecret({ provider: "more", keys: { token: "x" } });
  await expect(more).rejects.toMatchObject({ code: Code.FailedPrecondition });
  await secrets.putSecret({ provider: "first", keys: { f0: "y" } });
  expect(Object.keys((await secrets.listSecrets({})).providers)).toHaveLength(100);
});

test("a retry of a write is a write: nothing of it is kept to compare it by", async ({ app }) => {
  const me = await newPerson(app.db);
  const secrets = app.client(SecretService, me.token);
  const headers = { "idempotency-key": randomUUID() };
  await secrets.putSecret({ provider: "openai", keys: { apiKey: "sk-a" } }, { headers });
  await secrets.putSecret({ provider: "openai", keys: { apiKey: "sk-b" } }, { headers });

  expect(must(await opened(app, me, "openai")).value("apiKey")).toBe("sk-b");
  const kept = await asSuperuser(app, (client) =>
    client.query("select from idempotency_keys where account_id = $1", [me.accountId]),
  );
  expect(kept.rows).toEqual([]);
});

function grpcOf({ url }: App, { token }: SignedIn) {
  const transport = createGrpcTransport({
    baseUrl: url,
    interceptors: [
      (next) => (req) => {
        req.header.set("authorization", `Bearer ${token}`);
        return next(req);
      },
    ],
  });
  return createClient(SecretService, transport);
}

function refOf({ accountId }: SignedIn) {
  return { accountId, environment: "live" } as const;
}

function opened(app: App, person: SignedIn, provider: string) {
  return app.db.tenantRead(person.accountId, (tx) =>
    openSecret(tx, testSealer, { ...refOf(person), provider }),
  );
}

function enabled(app: App, { accountId }: SignedIn): Promise<string[]> {
  return app.db.tenantRead(accountId, (tx) => enabledProviders(tx, accountId));
}

function rowsOf(app: App, { accountId }: SignedIn): Promise<string[]> {
  return asSuperuser(app, async (client) => {
    const { rows } = await client.query(
      "select row_data::text as line from credentials as row_data where account_id = $1",
      [accountId],
    );
    return rows.map(({ line }) => line);
  });
}

function auditOf(app: App, requestId: string) {
  return asSuperuser(app, async (client) => {
    const { rows } = await client.query(
      "select action, resource, detail, outcome from audit_logs where request_id = $1",
      [requestId],
    );
    return rows;
  });
}
