import { randomBytes } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { SecretService } from "../gen/callora/credentials/v1/secret_service_pb.ts";
import { until } from "./support/app.ts";
import { startReceiver } from "./support/otlp.ts";
import { clientOf, makeDataDir, type Run, start } from "./support/process.ts";

const password = "a password for the admin";

test("the keys are made once, are not exchanged unseen, and are rotated", async () => {
  const receiver = await startReceiver();
  await using dir = await makeDataDir();
  const plain = `sk-${randomBytes(24).toString("hex")}`;
  const other = randomBytes(32).toString("base64");
  const runs: Run[] = [];
  const run = (env: Record<string, string>) => {
    runs.push(start(dir.path, { CALLORA_ADMIN_PASSWORD: password, ...env }));
    return runs.at(-1) as Run;
  };

  const first = run({
    LOG_LEVEL: "debug",
    OTEL_EXPORTER_OTLP_ENDPOINT: receiver.endpoint,
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
  });
  const secrets = await secretsOf(first);
  await secrets.putSecret({ provider: "openai", keys: { apiKey: plain } });
  await stop(first);

  const path = join(dir.path, "encryption-keys");
  const made = (await readFile(path, "utf8")).trim();
  const [version = "", key = ""] = made.split(":");
  expect(((await stat(path)).mode & 0o777).toString(8)).toBe("600");
  expect(receiver.spans().map(({ name }) => name)).toContainEqual(
    expect.stringContaining("SecretService/PutSecret"),
  );

  const exchanged = run({ ENCRYPTION_KEYS: `${version}:${other}` });
  expect(await exchanged.exited).toBe(1);
  expect(exchanged.stderr).toContain(`ENCRYPTION_KEYS has another key of version ${version}`);

  const next = version === "7" ? "8" : "7";
  const early = run({ ENCRYPTION_KEYS: `${next}:${other}` });
  expect(await early.exited).toBe(1);
  expect(early.stderr).toContain(`lacks version ${version}, which 1 credential is sealed with`);

  const both = run({ ENCRYPTION_KEYS: `${next}:${other},${made}` });
  const metrics = `${await both.url()}/api/metrics`;
  await until(async () => /^callora_credentials_to_reseal 0$/m.test(await textAt(metrics)));
  expect(await textAt(metrics)).toMatch(
    /^callora_credentials_last_round_timestamp_seconds \d{10}/m,
  );
  await stop(both);

  const rotated = run({ ENCRYPTION_KEYS: `${next}:${other}` });
  expect((await (await secretsOf(rotated)).listSecrets({})).providers).toMatchObject({
    openai: { fields: ["apiKey"], enabled: true },
  });
  await stop(rotated);

  expect((await readFile(path, "utf8")).trim()).toBe(made);
  const said = [...runs.flatMap((one) => [one.stdout, one.stderr]), ...receiver.bodies];
  for (const secret of [plain, key, other]) {
    expect(said.filter((text) => text.includes(secret))).toEqual([]);
  }
}, 120_000);

async function secretsOf(server: Run) {
  const url = await server.url();
  const login = { username: "admin", password };
  const { accessToken } = await clientOf(AuthService, url).passwordLogin(login);
  return clientOf(SecretService, url, accessToken);
}

async function stop(server: Run): Promise<void> {
  server.kill("SIGTERM");
  expect(await server.exited).toBe(0);
}

async function textAt(url: string): Promise<string> {
  return (await fetch(url)).text();
}
