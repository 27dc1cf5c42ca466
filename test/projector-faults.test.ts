import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { until } from "./support/app.ts";
import { openProving } from "./support/faults.ts";

const seed = Number(process.env.CALLORA_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** Longer than a projector's lease. */
const stoppedMs = 7_000;
const recoverMsMax = 30_000;

test("a projector that is stopped past its lease is taken over, and applies nothing when it wakes", {
  timeout: 180_000,
}, async () => {
  await using proving = await openProving();
  const servers = [await proving.serve(), await proving.serve()];
  const load = proving.load({ urls: servers.map(({ url }) => url), seed });

  // One of the two applies the events.
  for (const server of servers) {
    await load.acknowledgement(recoverMsMax);
    server.signal("SIGSTOP");
    const { durable } = await proving.watermark();
    await sleep(stoppedMs);
    await until(async () => (await proving.watermark()).applied >= durable, recoverMsMax);
    server.signal("SIGCONT");
  }
  await load.acknowledgement(recoverMsMax);
  await load.finish();

  expect((await proving.judge()).problems, `seed ${seed}`).toEqual([]);
});

test("events that cannot be applied are kept aside under load, and stop nobody", {
  timeout: 180_000,
}, async () => {
  await using proving = await openProving();
  await proving.superuser((client) =>
    client.query("alter table usage_events add check (endpoint <> 'GET /poison')"),
  );
  const server = await proving.serve();
  const load = proving.load({ urls: [server.url], seed, workers: 8, pauseMs: 1 });
  const poisons = [
    // What a table refuses.
    { endpoint: "GET /poison" },
    // Not what its price comes to.
    { endpoint: "GET /wrong", chargedNanos: 1_001n },
  ];

  for (let round = 0; round < 5; round++) {
    await load.acknowledgement(recoverMsMax);
    await Promise.all(poisons.map((poison) => proving.putPoison(poison)));
  }
  await load.acknowledgement(recoverMsMax);
  await load.finish();

  const verdict = await proving.judge();
  expect(verdict.problems, `seed ${seed}`).toEqual([]);
  expect(server.starts).toBe(1);
});
