import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { restOf } from "./support/rest.ts";
import { asSuperuser } from "./support/superuser.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

test("the text of a secret is in no table, log, audit record or answer", async () => {
  await using app = await startTestApp();
  const me = await newPerson(app.db);
  const call = restOf(app, me);
  const planted = Array.from(
    { length: 4 },
    () => `sk-ant-${randomBytes(24).toString("base64url")}`,
  );
  const [plain = "", other = "", refused = "", failed = ""] = planted;
  const answers = [
    await call("POST", "/v1/secret", { provider: "anthropic", keys: { apiKey: plain } }),
    await call("POST", "/v1/secret", { provider: "other", keys: { token: other } }),
    await call("POST", "/v1/secret", { provider: "openai", keys: { apiKey: ` ${refused}` } }),
    await call("POST", "/v1/secret", { provider: "openai", keys: { apiKey: [refused] } }),
    await call("POST", "/v1/secret", { provider: refused, key: { apiKey: refused } }),
    await call("PATCH", "/v1/secret/other", { enabled: false }),
    await call("GET", "/v1/secret"),
  ];
  await asSuperuser(app, (client) => client.query("revoke insert on credentials from callora_app"));
  answers.push(await call("POST", "/v1/secret", { provider: "third", keys: { token: failed } }));
  await asSuperuser(app, (client) => client.query("grant insert on credentials to callora_app"));
  await asSuperuser(app, (client) =>
    client.query(
      "update credentials set sealed = set_byte(sealed, 30, get_byte(sealed, 30) # 1) where provider = 'other'",
    ),
  );
  answers.push(await call("POST", "/v1/secret", { provider: "other", keys: { more: failed } }));
  answers.push(await call("DELETE", "/v1/secret/other"));

  const statuses = answers.map(([status]) => status);
  expect(statuses).toEqual([200, 200, 400, 400, 400, 200, 200, 500, 400, 200]);
  const tables = await dump(app);
  expect(tables.find(([name]) => name === "credentials")?.[1]).toContain("anthropic");
  expect(app.lines.join("")).toContain("permission denied");
  const places: [string, string][] = [
    ...tables,
    ["log", app.lines.join("\n")],
    ["answers", JSON.stringify(answers)],
  ];
  for (const [place, text] of places) {
    for (const secret of planted) {
      expect([place, formsOf(secret).filter((form) => text.includes(form))]).toEqual([place, []]);
    }
  }
});

/** The text of every table, bytes in hexadecimal. */
function dump(app: App): Promise<[string, string][]> {
  return asSuperuser(app, async (client) => {
    const { rows: names } = await client.query(
      "select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')",
    );
    const tables: [string, string][] = [];
    for (const { name } of names) {
      const { rows } = await client.query(`select row_data::text as line from ${name} as row_data`);
      tables.push([name, rows.map(({ line }) => line).join("\n")]);
    }
    return tables;
  });
}

/** A text as it could stand somewhere: as it is, in base64 at each of three offsets, and in hexadecimal. */
function formsOf(secret: string): string[] {
  const base64 = [0, 1, 2].map((skip) =>
    Buffer.from(secret).subarray(skip).toString("base64").slice(0, 20),
  );
  return [secret, secret.slice(7), Buffer.from(secret).toString("hex"), ...base64];
}
