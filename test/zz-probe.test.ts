import http2 from "node:http2";
import { Code, createClient, ConnectError } from "@connectrpc/connect";
import { createGrpcTransport, createConnectTransport } from "@connectrpc/connect-node";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { test } from "./support/test.ts";

test("probe", async ({ app }) => {
  const admin = await app.admin();
  const dev = await app.person("DEVELOPER");
  const user = await app.person();
  const api = await app.api(dev);
  const secret = await app.key(user, api.id);
  async function rest(method: string, path: string, body?: unknown, headers: Record<string,string> = {}) {
    try {
    const t = performance.now();
    const r = await fetch(app.url + path, { method, headers: { authorization: `Bearer ${user.token}`, ...(body === undefined ? {} : {"content-type": "application/json"}), ...headers }, ...(body === undefined ? {} : {body: typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body)}) } as RequestInit);
    console.log(method, path.slice(0, 80), JSON.stringify(headers).slice(0,100), "=>", r.status, (await r.text()).slice(0, 300), Math.round(performance.now() - t));
    } catch (e) { console.log(method, path.slice(0,80), "THREW", String(e), String((e as Error).cause)); }
  }
  await rest("POST", "/api/keys", { apiId: api.id, displayName: "a\u0000b", mode: "MODE_TEST" });
  await rest("POST", "/api/keys", { apiId: api.id, displayName: "a\ud800b", mode: "MODE_TEST" });
  await rest("POST", "/api/keys", '{"apiId":"' + api.id + '","displayName":"a\\ud800b","mode":"MODE_TEST"}');
  await rest("GET", `/api/audit-logs?resource=%00`);
  await rest("GET", `/api/api-keys?page_token=${Buffer.from('["v1","\\u0000"]').toString("base64url")}`);
  await rest("GET", `/api/api-keys?page_token=zzz`);
  await rest("GET", `/api/api-keys?page_token=${Buffer.from('["v1","x"]').toString("base64url")}`);
  await rest("GET", `/api/api-keys?page_size=251`);
  await rest("GET", `/api/api-keys?page_size=-1`);
  await rest("GET", `/api/api-keys?page_size=abc`);
  await rest("GET", `/v1/usage/event?source=%00&id=a`);
  await rest("GET", `/v1/usage/event?source=%ff&id=a`);
  await rest("GET", `/api/usage?from=0000-01-01&to=0000-02-01`);
  await rest("GET", `/api/usage?from=9999-12-01&to=9999-12-31`);
  await rest("POST", "/api/v1/auth/login", { username: "a\u0000", password: "x" });
  await rest("GET", `/v1/call/%00/x`, undefined, { "x-api-key": secret, authorization: "" });
  await rest("GET", `/v1/call/%ff/x`, undefined, { "x-api-key": secret, authorization: "" });
  await rest("GET", `/v1/call/${api.slug}/x`, undefined, { "x-api-key": "garbage", authorization: "" });
  await rest("POST", "/api/keys", new Uint8Array(10 << 20).fill(0x20));
  await rest("POST", "/api/keys", "[".repeat(100000));
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", "[".repeat(1000000));
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", '{"apiId":' + "[".repeat(100000) + "]".repeat(100000) + "}");
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", '{"nope":' + '{"a":'.repeat(100000) + "1" + "}".repeat(100000) + "}");
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", '{"nope":1}');
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", '{"apiId":1}');
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", '{');
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", new Uint8Array([0x7b, 0xff, 0x7d]));
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", new Uint8Array(10 << 20).fill(0x20));
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", new Uint8Array(200000).fill(0x0b), {"content-type": "application/proto"});
  await rest("POST", "/callora.keys.v1.KeyService/CreateKey", new Uint8Array([0x1a, 2, 0xff, 0xfe]), {"content-type": "application/proto"});
  await rest("POST", "/api/keys", '{"apiId":"secretvalue", "displayName": 5}');
  await rest("POST", "/api/keys", '{"apiId":"' + api.id + '","expireTime":"99999-01-01T00:00:00Z"}');
  for (const httpVersion of ["1.1", "2"] as const) {
    const t = httpVersion === "2" ? createGrpcTransport({ baseUrl: app.url }) : createConnectTransport({ baseUrl: app.url, httpVersion, useBinaryFormat: true });
    const h = { headers: { authorization: `Bearer ${user.token}` } };
    const a = { headers: { authorization: `Bearer ${admin.token}` } };
    const show = (p: Promise<unknown>) => p.then((v) => console.log(httpVersion, "OK", v), (e: ConnectError) => console.log(httpVersion, Code[e.code], e.message.slice(0, 200)));
    const k = createClient(KeyService, t);
    await show(k.createKey({ apiId: api.id, mode: 2, expireTime: { seconds: 1n << 60n, nanos: 0 } }, h));
    await show(k.createKey({ apiId: api.id, mode: 2, expireTime: { seconds: 4n*10n**11n, nanos: 0 } }, h));
    await show(k.createKey({ apiId: api.id, mode: 2, expireTime: { seconds: 4n*10n**9n, nanos: -5 } }, h));
    await show(k.createKey({ apiId: api.id, mode: 9 }, h));
    await show(k.createKey({ apiId: api.id, displayName: "x".repeat(10<<20) }, h));
    await show(k.listKeys({}, h));
    await show(createClient(MeteringService, t).recordUsage({ events: [{ source: "s", id: "1" + httpVersion, accountId: user.accountId, apiId: api.id, time: { seconds: 1n << 60n, nanos: 0 } }] }, a));
    await show(createClient(MeteringService, t).recordUsage({ events: [{ source: "s", id: "1\u0000" + httpVersion, accountId: user.accountId, apiId: api.id }] }, a));
    await show(k.createKey({ apiId: api.id }, { headers: {...h.headers, "idempotency-key": "a b" } }));
  }
  console.log(app.lines.filter((l) => l.includes("Cannot")).map((l) => l.slice(0, 400)).join("\n"));
});
