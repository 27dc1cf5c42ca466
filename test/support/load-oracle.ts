import type pg from "pg";
import { decodeRow } from "../../src/metering/codec.ts";
import { type Market, numberOf, priceOf, variantOf } from "./load-events.ts";
import type { LoadHistory } from "./load-log.ts";

/** What is in the database, held against what a client knows. */
export interface Verdict {
  /** What is wrong, one sentence each. Empty: every acknowledged event counts once. */
  problems: string[];
  applied: number;
  quarantined: number;
  duplicates: number;
  acknowledged: number;
  /** Sums of money in nano-USDC, which must all be equal. */
  sums: Record<string, bigint>;
}

const problemsMax = 20;

/** Judge a database whose journal is applied to its end. What was put into the journal past the door: `malformed`, `poisoned`. */
export async function judge(
  client: pg.Client,
  {
    market,
    history,
    malformed,
    poisoned,
  }: { market: Market; history: LoadHistory; malformed: number; poisoned: number },
): Promise<Verdict> {
  const [events, kept] = [await readEvents(client), await readQuarantine(client)];
  const problems: string[] = [];
  const keptEvents = new Set(kept.map(({ n, variant }) => `${n}/${variant}`));
  const byNumber = new Map(events.map((event) => [event.n, event]));
  if (byNumber.size !== events.length) {
    problems.push(`${events.length - byNumber.size} identities are applied twice`);
  }
  for (const [n, variants] of history.acknowledged) {
    for (const variant of variants.keys()) {
      if (byNumber.get(n)?.variant !== variant && !keptEvents.has(`${n}/${variant}`)) {
        problems.push(`event ${n}/${variant} is acknowledged, and neither applied nor kept`);
      }
    }
  }
  for (const { n, variant, charged } of events) {
    if (!history.sent.get(n)?.has(variant)) {
      problems.push(`event ${n}/${variant} is applied, and was never sent`);
    }
    if (charged !== priceOf(market, n)) {
      problems.push(`event ${n} is charged ${charged} instead of ${priceOf(market, n)}`);
    }
  }
  problems.push(...(await findUncounted(client, { events, kept, history })));
  for (const [reason, put] of Object.entries({ MALFORMED: malformed, POISONED: poisoned })) {
    const found = kept.filter((one) => one.reason === reason).length;
    if (found !== put) {
      problems.push(`${found} events are kept as ${reason}, of ${put}`);
    }
  }
  const sums = await readSums(client);
  for (const [name, sum] of Object.entries(sums)) {
    if (sum !== sums.events) {
      problems.push(`${name} is ${sum}, but the events cost ${sums.events}`);
    }
  }
  return {
    problems: problems.slice(0, problemsMax),
    applied: events.length,
    quarantined: kept.length,
    duplicates: events.reduce((sum, event) => sum + event.duplicates, 0),
    acknowledged: [...history.acknowledged.values()].length,
    sums,
  };
}

interface Applied {
  n: number;
  variant: number;
  charged: bigint;
  duplicates: number;
  conflicts: number;
}

interface Kept {
  reason: string;
  n: number | undefined;
  variant: number | undefined;
}

async function readEvents(client: pg.Client): Promise<Applied[]> {
  const { rows } = await client.query(
    `select source, id, endpoint, charged_nanos::text as charged, duplicates, conflicts
     from usage_events`,
  );
  return rows.map(({ source, id, endpoint, charged, duplicates, conflicts }) => ({
    n: numberOf({ source, id }),
    variant: variantOf(endpoint),
    charged: BigInt(charged),
    duplicates,
    conflicts,
  }));
}

async function readQuarantine(client: pg.Client): Promise<Kept[]> {
  const { rows } = await client.query<{ reason: string; raw: Buffer }>(
    "select reason, raw from usage_quarantine",
  );
  return rows.map(({ reason, raw }) => {
    const [entry] = reason === "MALFORMED" ? [] : decodeRow({ codec: 1, body: raw }).entries;
    return entry !== undefined && "endpoint" in entry && reason !== "POISONED"
      ? { reason, n: numberOf(entry), variant: variantOf(entry.endpoint) }
      : { reason, n: undefined, variant: undefined };
  });
}

/** Each entry of the journal is applied, a repeat of an applied one, or kept; each acknowledgement has its entry. */
async function findUncounted(
  client: pg.Client,
  { events, kept, history }: { events: Applied[]; kept: Kept[]; history: LoadHistory },
): Promise<string[]> {
  const problems: string[] = [];
  const { rows } = await client.query(
    "select coalesce(sum(entries), 0)::int as entries from usage_journal",
  );
  const counted = events.reduce((sum, one) => sum + 1 + one.duplicates, 0) + kept.length;
  if (counted !== rows[0].entries) {
    problems.push(`the journal has ${rows[0].entries} entries, of which ${counted} are counted`);
  }
  const keptOf = Map.groupBy(kept, ({ n }) => n);
  for (const { n, duplicates, conflicts } of events) {
    const own = keptOf.get(n) ?? [];
    if (1 + duplicates + own.length < sum(history.acknowledged.get(n))) {
      problems.push(`event ${n} has fewer entries than acknowledgements`);
    }
    if (conflicts !== own.filter(({ reason }) => reason === "CONFLICT").length) {
      problems.push(`event ${n} has ${conflicts} conflicts, but not as many are kept`);
    }
  }
  return problems;
}

function sum(counts: ReadonlyMap<number, number> | undefined): number {
  return [...(counts?.values() ?? [])].reduce((total, times) => total + times, 0);
}

/** The sum of all events, found in each place that holds it: each sum is to be that of the events. */
export async function readSums(client: pg.Client): Promise<Record<string, bigint>> {
  const { rows } = await client.query<{ name: string; nanos: string }>(
    `select 'events' as name, coalesce(sum(charged_nanos), 0)::text as nanos from usage_events
     union all select 'usage roll-ups', coalesce(sum(charged_nanos), 0)::text from usage_rollups
     union all select 'revenue roll-ups', coalesce(sum(revenue_nanos), 0)::text from revenue_rollups
     union all select 'consumer debits', coalesce(sum(amount_nanos), 0)::text from ledger_transfers
       where source_type = 'usage' and credit_kind = 'clearing'
     union all select 'developer credits and fees', coalesce(sum(amount_nanos), 0)::text
       from ledger_transfers where source_type = 'usage' and credit_kind in ('payable', 'platform_fee')
     union all select 'balances of developers and platform',
       coalesce(sum(credits_nanos - debits_nanos), 0)::text
       from ledger_accounts where kind in ('payable', 'platform_fee')
     union all select 'spent and owed by consumers', (
       coalesce(sum(debits_nanos) filter (where kind = 'consumer'), 0)
       + coalesce(sum(debits_nanos) filter (where kind = 'consumer_receivable'), 0))::text
       from ledger_accounts
     union all select 'shares of developers and platform', coalesce(sum(gross_nanos), 0)::text
       from revenue_totals`,
  );
  return Object.fromEntries(rows.map(({ name, nanos }) => [name, BigInt(nanos)]));
}
