import { describe, expect, test } from "vitest";
import { HealthService } from "../gen/callora/health/v1/health_service_pb.ts";
import { docsRoutes } from "../src/edge/docs.ts";
import { entry } from "../src/edge/service-entry.ts";
import { createReadiness, healthService } from "../src/health.ts";
import { describeApi } from "../src/openapi.ts";
import { openPage } from "./support/browser.ts";
import { startEdge } from "./support/edge.ts";

const timeout = 120_000;

/** A server of the description and of what the test tries out. */
function startDocs() {
  const health = healthService({ readiness: createReadiness({}), version: "1.2.3" });
  return startEdge({
    docs: docsRoutes({ openapi: describeApi() }),
    services: [entry(HealthService, health)],
  });
}

// Runs in the page: its elements come whenever the page has drawn them.
const until = `(selector) => new Promise((resolve) => {
  const look = () => {
    const found = document.querySelector(selector);
    found ? resolve(found) : setTimeout(look, 20);
  };
  look();
})`;

// Services are closed at first: of more than 128 open operations the page draws a few and stops.
const countOperations = `(async () => {
  const until = ${until};
  await until(".opblock-tag");
  let count = 0;
  for (const tag of document.querySelectorAll(".opblock-tag")) {
    tag.click();
    await until(".opblock");
    count += document.querySelectorAll(".opblock").length;
    tag.click();
    await until(".opblock-tag-section:not(:has(.opblock))");
  }
  return count;
})()`;

const tryHealth = `(async () => {
  const until = ${until};
  (await until("#operations-tag-HealthService")).click();
  const operation = "#operations-HealthService-HealthService_GetHealth";
  (await until(operation + " .opblock-summary-control")).click();
  (await until(operation + " .try-out__btn")).click();
  (await until(operation + " .execute")).click();
  const live = operation + " .live-responses-table .response";
  const status = (await until(live + " .response-col_status")).textContent.trim();
  return { status, body: (await until(live + " .highlight-code code")).textContent };
})()`;

describe.skipIf(process.env.CALLORA_TEST_WITHOUT_CHROMIUM === "1")("in a browser", () => {
  test("/docs and /redoc show every operation, without an error or a word to other hosts", {
    timeout,
  }, async () => {
    await using at = await startDocs();
    await using page = await openPage();
    const wanted = Object.values(describeApi().paths).flatMap(Object.keys).length;

    for (const path of ["/docs", "/redoc"]) {
      await page.open(at.url + path);
      const shown = await page.evaluate(countOperations);

      expect(shown, path).toBe(wanted);
    }

    expect(page.errors).toEqual([]);
    expect(page.requests.filter((url) => !url.startsWith(`${at.url}/`))).toEqual([]);
    expect(page.requests).toContain(`${at.url}/openapi.json`);
  });

  test("GET /api/health is called from the page", { timeout }, async () => {
    await using at = await startDocs();
    await using page = await openPage();

    await page.open(`${at.url}/docs`);
    const shown = await page.evaluate(tryHealth);

    expect(shown).toMatchObject({ status: "200", body: expect.stringContaining("1.2.3") });
    expect(page.requests).toContain(`${at.url}/api/health`);
    expect(page.errors).toEqual([]);
  });
});
