import { Counter } from "prom-client";
import { expect, test } from "vitest";
import { createMetrics, metricsAllowed } from "./metrics.ts";

/** The value of one series of the text format. */
async function readValue(metrics: ReturnType<typeof createMetrics>, series: string) {
  const { body } = await metrics.render();
  const line = body.split("\n").find((text) => text.startsWith(`${series} `));
  return line === undefined ? undefined : Number(line.slice(series.length + 1));
}

test("a request is counted and timed under its method, route and status", async () => {
  const metrics = createMetrics();
  const labels = 'method="GET",route="/v1/apis/{id}",status_code="200"';

  metrics.observe({ method: "GET", route: "/v1/apis/{id}", statusCode: 200, durationMs: 24 });
  metrics.observe({ method: "GET", route: "/v1/apis/{id}", statusCode: 200, durationMs: 3000 });

  const bucket = (le: string) =>
    readValue(metrics, `http_request_duration_seconds_bucket{le="${le}",${labels}}`);
  expect(await readValue(metrics, `http_requests_total{${labels}}`)).toBe(2);
  expect(await bucket("0.01")).toBe(0);
  expect(await bucket("0.025")).toBe(1);
  expect(await bucket("2")).toBe(1);
  expect(await bucket("5")).toBe(2);
  expect(await readValue(metrics, `http_request_duration_seconds_sum{${labels}}`)).toBeCloseTo(
    3.024,
  );
});

test("the buckets are those that the dashboards use", async () => {
  const metrics = createMetrics();
  metrics.observe({ method: "GET", route: "/", statusCode: 200, durationMs: 1 });

  const { body } = await metrics.render();

  const buckets = [...body.matchAll(/^http_request_duration_seconds_bucket\{le="([^"]+)"/gm)];
  expect(buckets.map(([, le]) => le)).toEqual([
    "0.005",
    "0.01",
    "0.025",
    "0.05",
    "0.1",
    "0.3",
    "0.5",
    "1",
    "2",
    "5",
    "+Inf",
  ]);
});

test("the text has Node's metrics and those that features register, in Prometheus's format", async () => {
  const metrics = createMetrics();
  new Counter({ name: "lost_total", help: "Lost", registers: [metrics.registry] }).inc(3);

  const { contentType, body } = await metrics.render();

  expect(contentType).toMatch(/^text\/plain; version=0\.0\.4/);
  expect(body).toContain("# TYPE process_cpu_user_seconds_total counter");
  expect(body).toContain("# TYPE nodejs_eventloop_lag_seconds gauge");
  expect(body).toContain("lost_total 3");
});

test("two servers in one process count apart", async () => {
  const [one, two] = [createMetrics(), createMetrics()];

  one.observe({ method: "GET", route: "/", statusCode: 200, durationMs: 1 });

  const series = 'http_requests_total{method="GET",route="/",status_code="200"}';
  expect(await readValue(one, series)).toBe(1);
  expect(await readValue(two, series)).toBeUndefined();
});

test("callers cannot make series without end", async () => {
  const metrics = createMetrics();

  for (let i = 0; i < 1_100; i++) {
    metrics.observe({ method: `M${i}`, route: `/${i}`, statusCode: 1000 + i, durationMs: -1 });
  }

  const { body } = await metrics.render();
  expect(body.match(/^http_requests_total\{/gm)).toHaveLength(1_001);
  expect(body).toContain(
    'http_requests_total{method="OTHER",route="OTHER",status_code="OTHER"} 100',
  );
  expect(body).not.toContain("M7");
});

test.for([
  ["development", undefined, undefined, true],
  ["test", undefined, undefined, true],
  ["development", "", undefined, true],
  ["production", undefined, undefined, false],
  ["production", "", "Bearer ", false],
  ["production", undefined, "Bearer undefined", false],
  ["production", "scrape-me", undefined, false],
  ["production", "scrape-me", null, false],
  ["production", "scrape-me", "Bearer scrape-me", true],
  ["production", "scrape-me", "bearer  scrape-me", true],
  ["production", "scrape-me", "Bearer scrape-m", false],
  ["production", "scrape-me", "Bearer scrape-me2", false],
  ["production", "scrape-me", "Bearer Scrape-me", false],
  ["production", "scrape-me", "scrape-me", false],
  ["production", "scrape-me", "Basic scrape-me", false],
  ["development", "scrape-me", undefined, false],
  ["development", "scrape-me", "Bearer scrape-me", true],
] as const)("in %s with key %j, %j may read the metrics: %j", (row) => {
  const [environment, apiKey, authorization, isAllowed] = row;

  expect(metricsAllowed({ environment, apiKey, authorization })).toBe(isAllowed);
});

test("the process says whether it may answer from memory, as things are when it is asked", async () => {
  const metrics = createMetrics();
  const stats = { isHeld: true, losses: 0, refusals: 0, hits: 7, loads: 2, entries: 5 };
  metrics.watchTrust(() => stats);
  const before = await readValue(metrics, "callora_trust_lost");

  Object.assign(stats, { isHeld: false, losses: 1, refusals: 3 });

  expect(before).toBe(0);
  expect(await readValue(metrics, "callora_trust_lost")).toBe(1);
  expect(await readValue(metrics, "callora_trust_losses_total")).toBe(1);
  expect(await readValue(metrics, "callora_trust_refusals_total")).toBe(3);
  expect(await readValue(metrics, "callora_trust_refusals_total")).toBe(3);
  expect(await readValue(metrics, "callora_memory_hits_total")).toBe(7);
  expect(await readValue(metrics, "callora_memory_loads_total")).toBe(2);
  expect(await readValue(metrics, "callora_memory_entries")).toBe(5);
});
