import { expect, test } from "vitest";
import { createHeaderFilter } from "./headers.ts";

/** What the filter makes of headers, as an object. */
function upstreamHeaders(sent: Record<string, string | string[]>, dropped: string[] = []) {
  const raw = Object.entries(sent).flatMap(([name, value]) =>
    [value].flat().flatMap((one) => [name, one]),
  );
  const connection = Object.entries(sent).find(([name]) => /^connection$/i.test(name))?.[1];
  const extra = { connection: connection?.toString(), dropped };
  return toObject(createHeaderFilter().toUpstream(raw, extra));
}

function consumerHeaders(headers: Record<string, string | string[]>) {
  return toObject(createHeaderFilter().toConsumer(headers));
}

function toObject(flat: readonly (string | readonly string[])[]) {
  const all: Record<string, string | string[]> = {};
  for (let index = 0; index < flat.length; index += 2) {
    const name = String(flat[index]);
    const values = [all[name] ?? [], flat[index + 1] ?? []].flat();
    all[name] = values.length === 1 ? String(values[0]) : values.map(String);
  }
  return all;
}

test("an upstream sees what the consumer sent to it, and nothing that was sent to us", () => {
  const headers = upstreamHeaders(
    {
      ":path": "/v1/call/a/b",
      ":authority": "callora.example",
      Host: "callora.example",
      Accept: "application/json",
      "content-type": "text/plain",
      "X-Custom": "1",
      "x-two": ["a", "b"],
      Authorization: "Bearer ck_live_x",
      "X-API-Key": "ck_live_x",
      cookie: "session=1",
      "x-user-id": "usr_1",
      "idempotency-key": "k",
      "sec-websocket-key": "k",
      "x-secret-of-api": "mine",
      traceparent: "00-1-1-01",
      expect: "100-continue",
    },
    ["x-secret-of-api"],
  );

  expect(headers).toEqual({
    accept: "application/json",
    "content-type": "text/plain",
    "x-custom": "1",
    "x-two": ["a", "b"],
    "idempotency-key": "k",
  });
});

test("a consumer cannot claim to be another client, or to be us", () => {
  const headers = upstreamHeaders({
    "X-Forwarded-For": "10.0.0.1",
    "x-forwarded-host": "evil",
    "x-forwarded-proto": "https",
    Forwarded: "for=10.0.0.1",
    "x-real-ip": "10.0.0.1",
    "x-request-id": "mine",
    "X-Callora-Account": "acc_1",
    "True-Client-IP": "10.0.0.1",
    "CF-Connecting-IP": "10.0.0.1",
    baggage: "mine=1",
  });

  expect(headers).toEqual({});
});

test("a call cannot pass for one of another route, nor a name for one that is dropped", () => {
  const headers = upstreamHeaders({
    "X-HTTP-Method-Override": "DELETE",
    "X-Original-URL": "/dear",
    "x-rewrite-url": "/dear",
    X_User_Id: "usr_1",
    X_Forwarded_For: "10.0.0.1",
    "x-secret_of-api": "theirs",
  });

  expect(headers).toEqual({});
});

test("hop-by-hop headers end here, in both directions, and so do those that Connection names", () => {
  const hops = {
    connection: "close, X-Secret-Hop",
    "keep-alive": "timeout=5",
    "proxy-authorization": "Basic x",
    te: "trailers",
    trailer: "x",
    "transfer-encoding": "chunked",
    upgrade: "h2c",
    "x-secret-hop": "1",
    "x-kept": "1",
  };

  expect(upstreamHeaders(hops)).toEqual({ "x-kept": "1" });
  expect(consumerHeaders(hops)).toEqual({ "x-kept": "1", ...guards });
});

const guards = { "content-security-policy": "sandbox" };

test("an upstream cannot act on our origin, or speak in our name", () => {
  const headers = consumerHeaders({
    "content-type": "text/html",
    etag: '"1"',
    "set-cookie": ["session=stolen; Path=/"],
    "clear-site-data": '"*"',
    "strict-transport-security": "max-age=31536000",
    "alt-svc": 'h2="evil:443"',
    "service-worker-allowed": "/",
    nel: '{"report_to":"evil"}',
    "report-to": '{"group":"evil"}',
    "accept-ch": "Sec-CH-UA-Model",
    "access-control-allow-origin": "*",
    "access-control-allow-credentials": "true",
    "content-security-policy": "default-src *",
    "x-content-type-options": "sniff",
    "x-request-id": "forged",
    "server-timing": "gateway;dur=0",
    "x-callora-charged-nanos": "0",
    "x-ratelimit-remaining": "999",
  });

  expect(headers).toEqual({ "content-type": "text/html", etag: '"1"', ...guards });
});

test("of a header that a reply has once, the upstream's first counts", () => {
  const headers = consumerHeaders({
    "content-type": ["text/plain", "text/html"],
    "content-encoding": ["gzip", "br"],
    referer: ["https://a.example/", "https://b.example/"],
    link: ["</a>", "</b>"],
  });

  expect(headers).toEqual({
    "content-type": "text/plain",
    "content-encoding": "gzip, br",
    referer: "https://a.example/",
    link: ["</a>", "</b>"],
    ...guards,
  });
});

test("what was decided of a name holds again, and made-up names do not pile up", () => {
  const filter = createHeaderFilter();
  const extra = { connection: undefined, dropped: [] };

  for (let round = 0; round < 5_000; round++) {
    expect(filter.toUpstream([`x-${round}`, "1", "Cookie", "c"], extra)).toEqual([
      `x-${round}`,
      "1",
    ]);
  }
  expect(filter.toUpstream(["x-one", "1"], { connection: "x-one", dropped: [] })).toEqual([]);
  expect(filter.toUpstream(["x-one", "1"], extra)).toEqual(["x-one", "1"]);
});
