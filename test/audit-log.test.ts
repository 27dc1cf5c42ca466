import { randomUUID } from "node:crypto";
import pg from "pg";
import { expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import {
  type AuditLog,
  AuditOutcome,
  AuditService,
} from "../gen/callora/audit/v1/audit_service_pb.ts";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { password, startTestApp } from "./support/app.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeServiceToken, makeSession } from "./support/tokens.ts";

test.for(["callora_app", "callora_worker"] as const)(
  "%s cannot change or remove a record",
  async (role, { app }) => {
    const client = new pg.Client({
      connectionString: role === "callora_app" ? app.urls.app : app.urls.worker,
    });
    await client.connect();
    try {
      for (const statement of [
        "update audit_logs set action = 'x'",
        "delete from audit_logs",
        "truncate audit_logs",
        "alter table audit_logs disable trigger all",
        "drop table audit_logs",
      ]) {
        await expect(client.query(statement), statement).rejects.toMatchObject({ code: "42501" });
      }
    } finally {
      await client.end();
    }
  },
);

test("pages show every record once, newest first, while others are appended", async ({ app }) => {
  const developer = await app.person("DEVELOPER");
  const { id: apiId } = await app.api(developer);
  const catalog = app.client(CatalogService, developer.token);
  for (let change = 0; change < 8; change++) {
    await catalog.updateApi({ apiId, name: `name ${change}` });
  }
  const audit = app.client(AuditService, developer.token);
  const whole = await audit.listAuditLogs({ pageSize: 250 });

  const seen: AuditLog[] = [];
  let pageToken = "";
  do {
    const page = await audit.listAuditLogs({ pageSize: 3, pageToken });
    expect(page.logs.length).toBeLessThanOrEqual(3);
    seen.push(...page.logs);
    await catalog.updateApi({ apiId, description: `seen ${seen.length}` });
    pageToken = page.nextPageToken;
  } while (pageToken !== "");

  expect(seen.map(({ id }) => id)).toEqual(whole.logs.map(({ id }) => id));
  expect(seen.length).toBeGreaterThanOrEqual(10);
  const ids = seen.map(({ id }) => id);
  expect(ids).toEqual(ids.toSorted((a, b) => Number(b - a)));
});

test("filters narrow the list, and an admin can look at any account", async ({ app }) => {
  const developer = await app.person("DEVELOPER");
  const [first] = [await app.api(developer), await app.api(developer)];
  const own = app.client(AuditService, developer.token);
  const admin = app.client(AuditService, (await app.admin()).token);
  const resource = `api:${first?.id}`;
  const { accountId } = developer;

  const byAction = await own.listAuditLogs({ action: "api.publish" });
  const byResource = await own.listAuditLogs({ resource });
  const byBoth = await own.listAuditLogs({ resource, action: "api.publish", userId: developer.id });
  const byOther = await own.listAuditLogs({ userId: "usr_00000000000000000000000000" });
  const seenByAdmin = await admin.adminListAuditLogs({ accountId, resource });
  const all = await admin.adminListAuditLogs({ resource });

  expect(byAction.logs).toHaveLength(2);
  expect(byResource.logs.map(({ action }) => action)).toEqual(["api.publish", "api.create"]);
  expect(byBoth.logs).toMatchObject([
    { resource, action: "api.publish", outcome: AuditOutcome.DONE },
  ]);
  expect(byOther.logs).toEqual([]);
  expect(seenByAdmin.logs).toEqual(byResource.logs);
  expect(all.logs).toEqual(byResource.logs);
});

test("no secret reaches the audit log, the log or an error", async () => {
  await using app = await startTestApp();
  const secrets: string[] = [];
  const bodies: string[] = [];
  const plant = <T extends string>(secret: T) => {
    secrets.push(secret);
    return secret;
  };
  const post = async (path: string, body: string, headers: Record<string, string> = {}) => {
    const response = await fetch(app.url + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body,
    });
    bodies.push(await response.text());
    return response.status;
  };
  const person = await app.person();
  const api = await app.api(await app.person("DEVELOPER"));
  const token = plant(await app.signIn(person.username));
  const key = plant(await app.key({ ...person, token }, api.id));
  const made = await app.client(AuthService, token).createToken({ name: "planted" });
  plant(made.token);
  const service = plant((await makeServiceToken(app.db, ["keys.verify"])).token);
  for (const credential of [made.token, service, `${token}x`, `${service}x`]) {
    await fetch(`${app.url}/api/v1/auth/me?token=${credential}`, {
      headers: { authorization: `Bearer ${credential}`, cookie: `s=${credential}` },
    });
  }
  const planted = plant(`planted-${randomUUID()}`);
  const login = { username: person.username, password: planted };
  const loginPath = "/callora.accounts.v1.AuthService/PasswordLogin";
  const authorization = `Bearer ${token}`;

  expect(await post(loginPath, JSON.stringify(login))).toBe(401);
  expect(await post("/api/v1/auth/login", JSON.stringify({ ...login, password: [planted] }))).toBe(
    400,
  );
  expect(await post("/api/v1/auth/login", `{"password":"${planted}",`)).toBe(400);
  expect(await post("/api/v1/users", JSON.stringify(login), { authorization })).toBe(403);
  await fetch(`${app.url}/v1/call/${api.slug}/x?token=${planted}`, {
    headers: { "x-api-key": key },
  });
  await fetch(`${app.url}/api/health?secret=${planted}`, { headers: { cookie: `s=${token}` } });
  // Nothing is remembered of them yet, so that the call needs the database.
  const stranger = await app.person();
  const unseen = plant((await makeSession(app.db, { ...stranger, userId: stranger.id })).token);
  const byUnseen = { authorization: `Bearer ${unseen}` };
  await asSuperuser(app, (client) => client.query("revoke select on users from callora_worker"));
  expect(await post("/api/keys", JSON.stringify({ displayName: planted }), byUnseen)).toBe(500);
  const verifyPath = "/callora.keys.v1.KeyService/VerifyKey";
  expect(await post(verifyPath, JSON.stringify({ secret: key }), byUnseen)).toBe(500);
  await asSuperuser(app, (client) => client.query("grant select on users to callora_worker"));

  const records = await asSuperuser(app, async (client) => {
    const { rows } = await client.query(
      "select row_data::text as line from audit_logs as row_data",
    );
    return rows.map(({ line }) => String(line));
  });
  expect(app.lines.filter((line) => line.includes("permission denied"))).not.toEqual([]);
  expect(records.length).toBeGreaterThan(3);
  const places = { log: app.lines, audit: records, errors: bodies };
  for (const [place, lines] of Object.entries(places)) {
    for (const secret of [...secrets, password]) {
      expect([place, lines.filter((line) => line.includes(secret))]).toEqual([place, []]);
    }
  }
});
