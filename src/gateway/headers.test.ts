import { expect, test } from "vitest";
import { consumerHeaders, upstreamHeaders } from "./headers.ts";

const ours = { "x-request-id": "r1", "x-forwarded-for": "203.0.113.9" };

test("an upstream sees what the consumer sent to it, and nothing that was sent to us", () => {
  const headers = upstreamHeaders(
    {
      ":path": "/v1/call/a/b",
      ":authority": "callora.example",
      host: "callora.example",
      accept: "application/json",
      "content-type": "text/plain",
      "x-custom": "1",
      "x-two": ["a", "b"] as unknown as string,
      authorization: "Bearer ck_live_x",
      "x-api-key": "ck_live_x",
      cookie: "session=1",
      "x-user-id": "usr_1",
      "idempotency-key": "k",
      traceparent: "00-1-1-01",
      expect: "100-continue",
    },
    ours,
  );

  expect(headers).toEqual({
    accept: "application/json",
    "content-type": "text/plain",
    "x-custom": "1",
    "x-two": ["a", "b"],
    ...ours,
  });
});

test("a consumer cannot claim to be another client, or to be us", () => {
  const headers = upstreamHeaders(
    {
      "x-forwarded-for": "10.0.0.1",
      "x-forwarded-host": "evil",
      "x-forwarded-proto": "https",
      forwarded: "for=10.0.0.1",
      "x-real-ip": "10.0.0.1",
      "x-request-id": "mine",
      "x-callora-account": "acc_1",
    },
    ours,
  );

  expect(headers).toEqual(ours);
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

  expect(upstreamHeaders(hops, {})).toEqual({ "x-kept": "1" });
  expect(consumerHeaders(hops)).toEqual({ "x-kept": "1", ...guards });
});

const guards = { "x-content-type-options": "nosniff", "content-security-policy": "sandbox" };

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
    "x-callora-charged-nanos": "0",
    "x-ratelimit-remaining": "999",
  });

  expect(headers).toEqual({ "content-type": "text/html", etag: '"1"', ...guards });
});
