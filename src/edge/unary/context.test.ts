import { once } from "node:events";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { DescMethodUnary } from "@bufbuild/protobuf";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { LibraryService } from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { Http1Arrival } from "../arrival.ts";
import { UnaryContext } from "./context.ts";
import { createLiveCalls } from "./live-calls.ts";

/** Counts whoever wants to be told of the end. */
class CountedArrival extends Http1Arrival {
  readonly listeners = new Set<() => void>();

  override onceClosed(listener: () => void): void {
    this.listeners.add(listener);
    super.onceClosed(listener);
  }

  override offClosed(listener: () => void): void {
    this.listeners.delete(listener);
    super.offClosed(listener);
  }
}

/** A request that has reached a server and waits for its reply. */
async function openCall({ timeoutMs }: { timeoutMs?: number } = {}) {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const client = request({ port, path: "/x", headers: { "x-a": "1" }, agent: false });
  client.on("error", () => {});
  client.end();
  const [incoming, response]: [IncomingMessage, ServerResponse] = (await once(
    server,
    "request",
  )) as [IncomingMessage, ServerResponse];
  const shutdown = new AbortController();
  const live = createLiveCalls(shutdown.signal);
  const arrival = new CountedArrival(incoming, response);
  const method = LibraryService.method.getBook as DescMethodUnary;
  const exchange = {
    requestId: "r",
    clientIp: "",
    isSecure: false,
    protocol: "connect",
    method: "POST",
    setHeader() {},
  };
  // Now, since the runner has timers too.
  const timersBefore = timers();
  const context = new UnaryContext(
    { method, live },
    { arrival, exchange },
    timeoutMs,
    createContextValues(),
  );
  return {
    context,
    client,
    response,
    live,
    shutdown,
    newListeners: () => arrival.listeners.size,
    newTimers: () => timers() - timersBefore,
    async [Symbol.asyncDispose]() {
      client.destroy();
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

function timers(): number {
  return process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
}

test("a call whose handler asks for nothing has no timer and no listener", async () => {
  await using call = await openCall({ timeoutMs: 60_000 });

  expect([call.newTimers(), call.newListeners(), call.live.size]).toEqual([0, 0, 0]);

  call.context.close();

  expect(call.context.signal.aborted).toBe(true);
  expect([call.newTimers(), call.newListeners(), call.live.size]).toEqual([0, 0, 0]);
});

test("a call that has ended leaves no timer and no listener, and its signal is aborted", async () => {
  await using call = await openCall({ timeoutMs: 60_000 });
  const { signal } = call.context;

  expect([call.newTimers(), call.newListeners(), call.live.size]).toEqual([1, 1, 1]);

  call.context.close();

  expect([call.newTimers(), call.newListeners(), call.live.size]).toEqual([0, 0, 0]);
  expect(signal.reason).toMatchObject({ code: Code.Canceled });
});

test("a deadline aborts with DEADLINE_EXCEEDED, also one that passed before anybody asked", async () => {
  await using soon = await openCall({ timeoutMs: 20 });
  await using passed = await openCall({ timeoutMs: 0 });

  const { signal } = soon.context;
  if (!signal.aborted) {
    await once(signal, "abort");
  }

  expect(signal.reason).toMatchObject({ code: Code.DeadlineExceeded });
  expect(passed.context.signal.reason).toMatchObject({ code: Code.DeadlineExceeded });
  expect([soon.newListeners(), soon.live.size]).toEqual([0, 0]);
  // A timer may end a fraction of a millisecond before its time.
  expect(soon.context.timeoutMs()).toBeLessThanOrEqual(1);
});

test("a client that leaves aborts with CANCELED, also one that left before anybody asked", async () => {
  await using call = await openCall();
  await using late = await openCall();
  const { signal } = call.context;

  const aborted = once(signal, "abort");
  call.client.destroy();
  const closed = once(late.response, "close");
  late.client.destroy();
  await Promise.all([aborted, closed]);

  expect(signal.reason).toMatchObject({ code: Code.Canceled });
  expect(late.context.signal.reason).toMatchObject({ code: Code.Canceled });
  expect([call.newListeners(), call.live.size]).toEqual([0, 0]);
});

test("a server that stops aborts running calls with its reason, and later ones at once", async () => {
  await using call = await openCall();
  await using late = await openCall();
  const reason = new ConnectError("stops", Code.Unavailable);
  const { signal } = call.context;

  call.shutdown.abort(reason);
  late.shutdown.abort(reason);

  expect(signal.reason).toBe(reason);
  expect(late.context.signal.reason).toBe(reason);
  expect([call.newListeners(), call.live.size, late.live.size]).toEqual([0, 0, 0]);
});

test("request headers are those that were sent, and values are kept apart by their keys", async () => {
  await using call = await openCall();
  const key = { id: Symbol("key"), defaultValue: 7 };

  expect(call.context.requestHeader.get("X-A")).toBe("1");
  expect(call.context.sentHeader).toBeUndefined();
  expect(call.context.values.get(key)).toBe(7);
  expect(call.context.values.set(key, 8).get(key)).toBe(8);
  expect(call.context.values.delete(key).get(key)).toBe(7);
  expect(call.context.timeoutMs()).toBeUndefined();
});
