import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { type IncomingMessage, request } from "node:http";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { test as base, expect } from "vitest";
import { attachEmbedded } from "../src/db/embedded.ts";
import { openDatabase } from "../src/server.ts";
import { must, until } from "./support/app.ts";
import { type MarketPlace, newConsumer, sellApi } from "./support/gateway-market.ts";
import { makeDataDir, start } from "./support/process.ts";
import { asSuperuser } from "./support/superuser.ts";

/** Ten in the long run. */
const gigabytes = Number(process.env.CALLORA_KILLS ?? 0) >= 300 ? 10 : 0.5;
const bodyBytes = gigabytes * 1024 ** 3;
/** What replies are made of, over and over. No two pieces of it are alike. */
const part = randomBytes(256 * 1024);
const megabyte = 1024 ** 2;
const chargedMsMax = 30_000;

/** A server of its own, whose memory can be looked at. */
const test = base.extend<{ $file: { server: MarketPlace & { pid: number } } }>({
  server: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using dir = await makeDataDir();
      const run = start(dir.path, { CALLORA_ADMIN_PASSWORD: "a password for the admin" });
      const url = await run.url();
      const urls = must(await attachEmbedded(dir.path));
      const database = new URL(urls.superuser);
      database.pathname = new URL(urls.owner).pathname;
      const db = await openDatabase(urls);
      await use({ db, url, urls: { superuser: database.href }, pid: run.pid });
      await db.close();
      run.kill("SIGTERM");
      await run.exited;
    },
    { scope: "file" },
  ],
});

/** A server that sends so many bytes to whoever asks, as fast as they are taken. Its path says how. */
async function startEndless(bytes: number) {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on("error", () => {}));
    socket.on("data", (asked) => void sendAll(socket, { bytes, asked: String(asked) }));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) {
        socket.destroy();
      }
      server.close();
      await once(server, "close");
    },
  };
}

function sendAll(socket: Socket, { bytes, asked }: { bytes: number; asked: string }): void {
  const isChunked = asked.startsWith("GET /chunked");
  const size = asked.startsWith("GET /short") ? 2 : bytes;
  const length = isChunked ? "transfer-encoding: chunked" : `content-length: ${size}`;
  socket.write(`HTTP/1.1 200 OK\r\n${length}\r\n\r\n`);
  let sent = 0;
  const push = () => {
    let isRoom = true;
    while (sent < size && isRoom && !socket.destroyed) {
      const chunk = part.subarray(0, Math.min(part.length, size - sent));
      sent += chunk.length;
      if (isChunked) {
        socket.write(`${chunk.length.toString(16)}\r\n`);
      }
      isRoom = socket.write(chunk);
      if (isChunked) {
        socket.write("\r\n");
      }
    }
    if (sent < size) {
      socket.once("drain", push);
    } else if (isChunked) {
      socket.write("0\r\n\r\n");
    }
  };
  push();
}

/** A consumer whose calls go to the upstream. Resolves with the reply, once it has begun. */
async function openCalls(server: MarketPlace, upstreamUrl: string) {
  const api = await sellApi(server, upstreamUrl, { callNanos: 1_000n });
  const consumer = await newConsumer(server, { creditNanos: 1_000_000n, apis: [0] });
  const call = (path: string) =>
    new Promise<IncomingMessage>((resolve, reject) => {
      const headers = { "x-api-key": consumer.secret };
      const url = `${server.url}/v1/call/${api.slug}/${path}`;
      request(url, { headers, agent: false }, resolve).on("error", reject).end();
    });
  const charged = () =>
    asSuperuser(server, async (client) => {
      const { rows } = await client.query(
        "select count(*)::int as calls from usage_events where account_id = $1 and charged_nanos > 0",
        [consumer.accountId],
      );
      return rows[0].calls as number;
    });
  return { call, charged };
}

/** What a reply of one piece has from there on. */
function expectedAt(offset: number, length: number): Buffer {
  const from = offset % part.length;
  const rest = Math.max(0, from + length - part.length);
  return Buffer.concat([part.subarray(from, from + length - rest), part.subarray(0, rest)]);
}

/** The most memory that a process had since it was asked for the last time, in bytes. */
async function peakOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  await writeFile(`/proc/${pid}/clear_refs`, "5");
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

test.for(["length", "chunked"])(
  `a reply of ${gigabytes} GB passes in bounded memory (%s)`,
  { timeout: 600_000 },
  async (kind, { server }) => {
    await using upstream = await startEndless(bodyBytes);
    const { call, charged } = await openCalls(server, upstream.url);
    (await call("short")).resume();
    await until(async () => (await charged()) === 1, chargedMsMax);
    await peakOf(server.pid);
    const before = await peakOf(server.pid);

    const response = await call(kind);
    let received = 0;
    let hasRested = false;
    for await (const chunk of response as AsyncIterable<Buffer>) {
      received += chunk.length;
      if (received > bodyBytes / 10 && !hasRested) {
        // Whoever does not wait for the reader takes in all of it now.
        hasRested = true;
        await sleep(2_000);
      }
    }

    const grown = (await peakOf(server.pid)) - before;
    console.log(`${gigabytes} GB (${kind}): ${Math.round(grown / megabyte)} MB more at most`);
    expect(received).toBe(bodyBytes);
    expect(response.complete).toBe(true);
    expect(grown).toBeLessThan(60 * megabyte);
    await until(async () => (await charged()) === 2, chargedMsMax);
  },
);

test("300 consumers who stop reading cost little memory, and their calls end when they leave", {
  timeout: 120_000,
}, async ({ server }) => {
  const slow = 300;
  // More than what the kernel takes in between.
  await using upstream = await startEndless(64 * megabyte);
  const { call, charged } = await openCalls(server, upstream.url);
  (await call("short")).resume();
  await until(async () => (await charged()) === 1, chargedMsMax);
  await peakOf(server.pid);
  const before = await peakOf(server.pid);

  const replies = await Promise.all(Array.from({ length: slow }, () => call("length")));
  const hasFilled = sleep(1_000);
  for (const reply of replies) {
    reply.on("error", () => {}).pause();
  }
  // Others are served meanwhile.
  (await call("short")).resume();
  await until(async () => (await charged()) === 2, chargedMsMax);
  await hasFilled;
  const grown = (await peakOf(server.pid)) - before;
  for (const reply of replies) {
    reply.destroy();
  }

  console.log(`${slow} slow consumers: ${Math.round(grown / megabyte)} MB more at most`);
  expect(grown).toBeLessThan(60 * megabyte);
  await until(async () => (await charged()) === slow + 2, chargedMsMax);
});

test("100 replies that are read as fast as they come are whole, and cost little memory", {
  timeout: 120_000,
}, async ({ server }) => {
  const count = 100;
  const bytes = 10 * megabyte;
  await using upstream = await startEndless(bytes);
  const { call, charged } = await openCalls(server, upstream.url);
  (await call("short")).resume();
  await until(async () => (await charged()) === 1, chargedMsMax);
  await peakOf(server.pid);
  const before = await peakOf(server.pid);

  const replies = await Promise.all(
    Array.from({ length: count }, async () => {
      const response = await call("length");
      let received = 0;
      let wrong = 0;
      for await (const chunk of response as AsyncIterable<Buffer>) {
        wrong += chunk.equals(expectedAt(received, chunk.length)) ? 0 : 1;
        received += chunk.length;
      }
      return { received, wrong, isWhole: response.complete };
    }),
  );

  const grown = (await peakOf(server.pid)) - before;
  console.log(`${count} fast replies: ${Math.round(grown / megabyte)} MB more at most`);
  expect(replies).toEqual(Array(count).fill({ received: bytes, wrong: 0, isWhole: true }));
  expect(grown).toBeLessThan(60 * megabyte);
  await until(async () => (await charged()) === count + 1, chargedMsMax);
});
