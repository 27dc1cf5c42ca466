import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import type { Queries } from "../src/db/pool.ts";
import { findTarget } from "../src/metering/correction-store.ts";
import { findCharge } from "../src/metering/explain-store.ts";
import { findEvent } from "../src/metering/store.ts";
import { must } from "./support/app.ts";
import { newAccountId, openBooks, usage } from "./support/books.ts";

interface Plan {
  "Relation Name"?: string;
  "Index Cond"?: string;
  Plans?: Plan[];
}

/** What a store function asks, without an answer. */
function asked(find: (db: Queries) => unknown): { text: string; values: unknown[] } {
  let query: { sql: string; values: readonly unknown[] } | undefined;
  const maybeOne = async (token: { sql: string; values: readonly unknown[] }) => {
    query = token;
    return null;
  };
  find({ maybeOne } as unknown as Queries);
  const { sql: text, values } = must(query);
  return { text: text.replaceAll("$slonik_", "$"), values: [...values] };
}

function scansOf(plan: Plan, table: string): Plan[] {
  const own = plan["Relation Name"] === table ? [plan] : [];
  return [...own, ...(plan.Plans ?? []).flatMap((one) => scansOf(one, table))];
}

test("a look-up by identity names the month: it never walks through all keys of an account", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(), newAccountId()];
  const events = Array.from({ length: 200 }, () => usage({ account, developer }));
  await books.journal.append(events);
  await books.project();
  const { source, id } = must(events[7]);
  const identity = { accountId: account, source, id };
  // Tables as small as these are otherwise read whole.
  await books.superuser.query("analyze usage_events");
  await books.superuser.query("set enable_seqscan = off");
  await books.superuser.query("set enable_bitmapscan = off");

  const { rows: parts } = await books.superuser.query(
    "select distinct 'usage_events_' || to_char(received_month, 'YYYYMM') as part from usage_events",
  );

  for (const { text, values } of [
    asked((db) => findEvent(db, identity)),
    asked((db) => findCharge(db as Parameters<typeof findCharge>[0], identity)),
    asked((db) => findTarget(db, { account, source, id })),
  ]) {
    const { rows } = await books.superuser.query(`explain (format json) ${text}`, values);
    const scans = scansOf(rows[0]["QUERY PLAN"][0].Plan, parts[0].part);

    expect(scans.length).toBeGreaterThan(0);
    for (const scan of scans) {
      expect(scan["Index Cond"]).toContain("received_month");
    }
  }
});

test("of two events of one identity the later one is found, in whatever months they came", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(), newAccountId()];
  const event = usage({ account, developer, id: randomUUID() });
  await books.journal.append([event]);
  await books.project();
  await books.superuser.query(
    "update usage_events set received_month = date_trunc('month', now() - interval '3 months')",
  );
  const identity = { accountId: account, source: event.source, id: event.id };
  const find = () => books.db.tenantRead(account, (tx) => findEvent(tx, identity));
  const before = await find();
  await books.journal.append([event]);
  await books.project();

  // From before the first partition: in the one for everything else.
  expect(before).toMatchObject({ id: event.id });
  expect((await find())?.position).toBeGreaterThan(must(before).position);
});
