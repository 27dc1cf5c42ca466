import { randomInt } from "node:crypto";
import { createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { ErrorInfoSchema, RetryInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { LibraryService } from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { libraryService, mount, startEdge } from "../../test/support/edge.ts";
import { unavailable } from "../rpc/errors.ts";
import { createLimiter, type Limiter } from "../rpc/limiter.ts";
import { openPolicy } from "../rpc/policy.ts";
import { createSteps } from "../rpc/steps.ts";
import { entry } from "./service-entry.ts";

// Five at once for each address, then one in six seconds.
const policy = { ...openPolicy, rateClass: RateClass.LOGIN };

// It stands still, so that nothing comes back meanwhile.
const now = new Date();
const memory = createLimiter();

/** Limiters that answer at once, and later. */
const limiters = {
  "in memory": memory,
  elsewhere: { take: async (limits, at) => memory.take(limits, at) },
} satisfies Record<string, Limiter>;

function start(limiter: Limiter) {
  return startEdge({
    trustedProxies: ["127.0.0.1"],
    services: [entry(LibraryService, libraryService(), policy)],
    mounts: [mount("GET", "/mounted", { policy })],
    steps: createSteps({
      authenticators: [],
      limiter,
      now: () => now,
      auditRefusal: async () => {},
      onInternalError: () => {},
    }),
  });
}

const limitHeaders = [
  ...["limit", "remaining", "reset"].map((name) => `x-ratelimit-${name}`),
  "retry-after",
];

/** What a reply says: its limits, and why it was refused if it was. */
interface Said {
  limits: (string | null | undefined)[];
  reason: string | undefined;
  retrySeconds: number | undefined;
}

type Open = (url: string, interceptors: Interceptor[]) => Transport;

const transports = {
  connect: (baseUrl, interceptors) =>
    createConnectTransport({ baseUrl, httpVersion: "1.1", interceptors }),
  "connect over HTTP/2": (baseUrl, interceptors) =>
    createConnectTransport({ baseUrl, httpVersion: "2", interceptors }),
  gRPC: (baseUrl, interceptors) => createGrpcTransport({ baseUrl, interceptors }),
  "gRPC-Web": (baseUrl, interceptors) =>
    createGrpcWebTransport({ baseUrl, httpVersion: "1.1", interceptors }),
} satisfies Record<string, Open>;

const calls = {
  "a unary call": async (client) => {
    await client.getBook({ id: "b1" });
  },
  "a call that fails": async (client) => {
    await client.getBook({ id: "b2" }).catch((error) => {
      if (error.code !== 5) throw error;
      failed = error.metadata;
    });
  },
  "a stream of replies": async (client) => {
    for await (const _ of client.watchBooks({ count: 1 })) {
      // Only its headers matter.
    }
  },
  "a stream of requests": async (client) => {
    await client.importBooks(
      (async function* () {
        yield {};
      })(),
    );
  },
} satisfies Record<string, (client: ReturnType<typeof library>) => Promise<void>>;

let failed: Headers | undefined;

function library(transport: Transport) {
  return createClient(LibraryService, transport);
}

async function sayOf(
  open: Open,
  { url, ip, call }: { url: string; ip: string; call: (typeof calls)[keyof typeof calls] },
): Promise<Said> {
  let headers: Headers | undefined;
  failed = undefined;
  const listen: Interceptor = (next) => async (req) => {
    req.header.set("x-forwarded-for", ip);
    const response = await next(req);
    headers = response.header;
    return response;
  };
  const error = await call(library(open(url, [listen]))).then(
    () => undefined,
    (thrown) => thrown,
  );
  // The headers of a reply without messages are those of its error.
  const seen = [headers, failed, error?.metadata].filter((one) => one?.has("x-ratelimit-limit"))[0];
  const { seconds, nanos } = error?.findDetails(RetryInfoSchema)[0]?.retryDelay ?? {};
  return {
    limits: limitHeaders.map((name) => seen?.get(name)),
    reason: error?.findDetails(ErrorInfoSchema)[0]?.reason,
    retrySeconds: error && Math.ceil(Number(seconds) + nanos / 1e9),
  };
}

const passed: Said[] = ["4", "3", "2", "1", "0"].map((remaining, index) => ({
  limits: ["5", remaining, `${6 * (index + 1)}`, null],
  reason: undefined,
  retrySeconds: undefined,
}));
const refused: Said = { limits: ["5", "0", "30", "6"], reason: "RATE_LIMITED", retrySeconds: 6 };

const address = () => `10.${randomInt(256)}.${randomInt(256)}.${randomInt(1, 255)}`;

describe.for(Object.entries(limiters))("counted %s", ([, limiter]) => {
  let at: Awaited<ReturnType<typeof start>>;
  beforeAll(async () => {
    at = await start(limiter);
  });
  afterAll(async () => {
    await at.edge.close({ graceMs: 0 });
  });

  const cases = Object.entries(transports).flatMap(([protocol, open]) =>
    Object.entries(calls).map(([name, call]) => ({ protocol, name, open, call })),
  );

  test.for(cases)("$name over $protocol says its limits", async ({ open, call }) => {
    const ip = address();
    const said: Said[] = [];
    for (let index = 0; index < 6; index++) {
      said.push(await sayOf(open, { url: at.url, ip, call }));
    }

    expect(said).toEqual([...passed, refused]);
  });

  test.for([
    { name: "a call", path: "/v1/books/b1" },
    { name: "a call that fails", path: "/v1/books/b2" },
    { name: "a stream", path: "/v1/books:watch?count=1" },
    { name: "a body without a message", path: "/v1/books/b1?no_such_field=1" },
    { name: "a mount", path: "/mounted" },
  ])("$name over REST says its limits", async ({ path }) => {
    const headers = { "x-forwarded-for": address() };
    const said: (string | null)[][] = [];
    const statuses: number[] = [];
    let last = "";
    for (let index = 0; index < 6; index++) {
      const reply = await fetch(at.url + path, { headers });
      statuses.push(reply.status);
      said.push(limitHeaders.map((name) => reply.headers.get(name)));
      last = await reply.text();
    }

    expect(said).toEqual([...passed, refused].map(({ limits }) => limits));
    expect(statuses.slice(0, 5)).not.toContain(429);
    expect(statuses[5]).toBe(429);
    expect(JSON.parse(last).details).toContainEqual(
      expect.objectContaining({ reason: "RATE_LIMITED" }),
    );
  });

  test("all addresses of a /64 are one caller, those of the next another", async () => {
    const call = calls["a unary call"];
    const from = (ip: string) => sayOf(transports.gRPC, { url: at.url, ip, call });
    const net = `2001:db8:${randomInt(65_536).toString(16)}`;
    const ips = ["::1", "::2", ":0:ffff::", ":0:1:2:3:4", "::dead:beef", "::3"].map((e) => net + e);

    const reasons: (string | undefined)[] = [];
    for (const ip of ips) {
      reasons.push((await from(ip)).reason);
    }

    expect(reasons).toEqual([...Array(5).fill(undefined), "RATE_LIMITED"]);
    expect((await from(`${net}:1::1`)).reason).toBeUndefined();
  });
});

test("while nobody can count, a call is refused with the time to come again", async () => {
  await using at = await start({
    take: () => Promise.reject(unavailable("LIMITER_UNAVAILABLE", "Cannot count the call")),
  });
  const call = calls["a unary call"];

  const grpc = await sayOf(transports.gRPC, { url: at.url, ip: address(), call });
  const rest = await fetch(`${at.url}/v1/books/b1`);

  expect(grpc).toMatchObject({ reason: "LIMITER_UNAVAILABLE", retrySeconds: 1 });
  expect(rest.status).toBe(503);
  expect(rest.headers.get("retry-after")).toBe("1");
});
