import { type QuerySqlToken, sql } from "slonik";
import { z } from "zod";
import type { Tx } from "./db/pool.ts";
import { platformAccountId } from "./ledger/store.ts";
import type { Difference } from "./metering/rerate-event.ts";
import type { Rerated } from "./metering/rerate-run.ts";

/**
 * Find the first row that is not what it was made of: events of the journal, totals and roll-ups of the events,
 * balances of the transfers, leases of the events that they paid. Null when all are.
 *
 * Each sum is found from rows, never from another sum.
 */
export async function findDifference(tx: Tx, rerated: Rerated): Promise<Difference | null> {
  if (rerated.difference !== null) {
    return rerated.difference;
  }
  const looks = [
    () => findStray(tx, rerated),
    () => compareTotals(tx, rerated),
    () => findWrong(tx, fees),
    () => findWrong(tx, closings),
    () => findWrong(tx, corrections),
    () => findWrong(tx, usageRollups),
    () => findWrong(tx, revenueRollups),
    () => findWrong(tx, billLines),
    () => findWrong(tx, balances),
    () => findWrong(tx, leases),
  ];
  for (const look of looks) {
    const found = await look();
    if (found !== null) {
      return found;
    }
  }
  return null;
}

const countsRow = z.object({
  events: z.bigint(),
  quarantined: z.bigint(),
  corrections: z.bigint(),
  transfers: z.bigint(),
  duplicates: z.bigint(),
  conflicts: z.bigint(),
});

/** Rows that the journal has nothing for: their numbers tell, the query names one. */
async function findStray(tx: Tx, { counts, after }: Rerated): Promise<Difference | null> {
  const stored = await tx.one(sql.type(countsRow)`
    select
      (select count(*) from usage_events where position > ${after}) as events,
      (select count(*) from usage_quarantine where position > ${after}) as quarantined,
      (select count(*) from usage_corrections where position > ${after}) as corrections,
      (
        select count(*) from ledger_transfers where source_type = 'usage' and (
          ${after} = 0 or (
            position > ${after}
            and coalesce(substring(source_id from ':(\\d+)-')::int8 > ${after}, true)
          )
        )
      ) as transfers,
      repeats.duplicates, repeats.conflicts
    from (
      select coalesce(sum(duplicates), 0)::int8 as duplicates,
        coalesce(sum(conflicts), 0)::int8 as conflicts
      from usage_events where position > ${after}
    ) as repeats
  `);
  const tables = [
    ["usage_events", stored.events, counts.events, strayEvents],
    ["usage_quarantine", stored.quarantined, counts.quarantined, null],
    ["usage_corrections", stored.corrections, counts.corrections, null],
    ["ledger_transfers", stored.transfers, counts.transfers, strayTransfers],
    ["usage_events, duplicates", stored.duplicates, counts.duplicates, null],
    ["usage_events, conflicts", stored.conflicts, counts.conflicts, null],
  ] as const;
  const wrong = tables.find(([, left, right]) => left !== right);
  if (wrong === undefined) {
    return null;
  }
  const [table, left, right, query] = wrong;
  const named = query === null ? null : await findWrong(tx, query);
  return named ?? { where: table, field: "rows", stored: `${left}`, computed: `${right}` };
}

const wrongRow = z.object({
  where: z.string(),
  field: z.string(),
  stored: z.string(),
  computed: z.string(),
});

type WrongQuery = QuerySqlToken<typeof wrongRow>;

function findWrong(tx: Tx, query: WrongQuery): Promise<Difference | null> {
  return tx.maybeOne(query);
}

/** An event that stands where the journal has no entry, or where another one stands. */
const strayEvents = sql.type(wrongRow)`
  select event.position || '.' || event.ordinal as "where", 'event' as field,
    event.account_id || ' ' || event.key as stored, 'none' as computed
  from usage_events as event
  left join usage_journal as row using (position)
  where event.position > coalesce((select min(position) - 1 from usage_journal), 0) and (
    row.entries is null or event.ordinal >= row.entries or exists (
      select from usage_events as other
      where other.account_id = event.account_id and other.position = event.position
        and other.ordinal = event.ordinal and other.key <> event.key
    )
  )
  order by event.position, event.ordinal limit 1
`;

/** A transfer of usage of which no event of its account has a share. */
const strayTransfers = sql.type(wrongRow)`
  select 'ledger_transfers ' || transfer.id as "where",
    transfer.account_id || ' ' || transfer.mode || ' ' || debit_kind || ' ' || credit_kind as field,
    amount_nanos::text as stored, '0' as computed
  from ledger_transfers as transfer
  where source_type = 'usage' and not exists (
    select from usage_events as event
    where event.batch_position = transfer.position and event.mode = transfer.mode
      and transfer.account_id in (event.account_id, event.developer_account_id, ${platformAccountId})
  )
  order by transfer.position, transfer.id limit 1
`;

/** The platform's share of a developer's total is the price's, rounded down: shares of events are its growth. */
const fees = sql.type(wrongRow)`
  select concat_ws(' ', 'revenue_totals', account_id, mode, fee_basis_points, shard) as "where",
    'fee_nanos' as field, fee_nanos::text as stored,
    div(gross_nanos::numeric * fee_basis_points, 10000)::text as computed
  from revenue_totals
  where fee_nanos <> div(gross_nanos::numeric * fee_basis_points, 10000)
  order by account_id, mode, fee_basis_points, shard limit 1
`;

/** Whoever deals with what is kept aside leaves a record of it. */
const closings = sql.type(wrongRow)`
  select position || '.' || ordinal as "where", 'quarantine.state' as field, state as stored,
    'open' as computed
  from usage_quarantine
  where state <> 'open' and not exists (
    select from audit_logs where resource = 'quarantined_event:' || position || '.' || ordinal
  )
  order by position, ordinal limit 1
`;

/** From then on all events are there: those before may be removed. An event may be early by some minutes. */
const keptFrom = sql.fragment`coalesce(
  (
    select (max(received_month) + interval '1 month 1 day') at time zone 'UTC'
    from usage_partition_totals
  ),
  '-infinity'
)`;

/** What events and their corrections add to the roll-ups. */
const rolled = sql.fragment`(
  select account_id, developer_account_id, mode, api_id, booked_month, endpoint,
    date_bin('15 minutes', occurred_at, '1970-01-01T00:00:00Z') as bucket,
    1 as calls, (status_code = 0 or status_code >= 400)::int4 as errors, charged_nanos as nanos
  from usage_events
  union all
  select done.account_id, done.developer_account_id, done.mode, done.api_id, done.booked_month,
    event.endpoint, done.bucket, -(done.is_void::int4),
    -((done.is_void and (event.status_code = 0 or event.status_code >= 400))::int4),
    done.delta_nanos
  from usage_corrections as done
  join usage_events as event on event.account_id = done.account_id
    and event.position = done.event_position and event.ordinal = done.event_ordinal
)`;

const usageRollups = sql.type(wrongRow)`
  select concat_ws(' ', 'usage_rollups', account_id, mode, api_id, bucket, booked_month) as "where",
    'calls, errors, charged_nanos' as field,
    concat_ws(', ', total.calls, total.errors, total.charged_nanos) as stored,
    concat_ws(', ', made.calls, made.errors, made.nanos) as computed
  from usage_rollups as total
  full join (
    select account_id, mode, api_id, bucket, booked_month, sum(calls) as calls,
      sum(errors) as errors, sum(nanos) as nanos
    from ${rolled} as rolled group by account_id, mode, api_id, bucket, booked_month
  ) as made using (account_id, mode, api_id, bucket, booked_month)
  where (coalesce(total.calls, 0), coalesce(total.errors, 0), coalesce(total.charged_nanos, 0))
    is distinct from (coalesce(made.calls, 0), coalesce(made.errors, 0), coalesce(made.nanos, 0))
    and bucket >= ${keptFrom}
  order by bucket, account_id, mode, api_id, booked_month limit 1
`;

const revenueRollups = sql.type(wrongRow)`
  select concat_ws(' ', 'revenue_rollups', account_id, mode, api_id, bucket, booked_month, endpoint,
      consumer_account_id) as "where",
    'calls, errors, revenue_nanos' as field,
    concat_ws(', ', total.calls, total.errors, total.revenue_nanos) as stored,
    concat_ws(', ', made.calls, made.errors, made.nanos) as computed
  from revenue_rollups as total
  full join (
    select developer_account_id as account_id, mode, api_id, bucket, booked_month, endpoint,
      account_id as consumer_account_id, sum(calls) as calls, sum(errors) as errors,
      sum(nanos) as nanos
    from ${rolled} as rolled
    group by developer_account_id, mode, api_id, bucket, booked_month, endpoint, account_id
  ) as made using (account_id, mode, api_id, bucket, booked_month, endpoint, consumer_account_id)
  where (coalesce(total.calls, 0), coalesce(total.errors, 0), coalesce(total.revenue_nanos, 0))
    is distinct from (coalesce(made.calls, 0), coalesce(made.errors, 0), coalesce(made.nanos, 0))
    and bucket >= ${keptFrom}
  order by bucket, account_id, mode, api_id, booked_month, endpoint, consumer_account_id limit 1
`;

/** A correction is in the line of the month that it is booked in, and of the version that its event was charged by. */
const billLines = sql.type(wrongRow)`
  select concat_ws(' ', 'billing_lines', account_id, mode, booked_month, api_id, price_version) as "where",
    'calls, units, charged_nanos, corrected_nanos' as field,
    concat_ws(', ', line.calls, line.units, line.charged_nanos, line.corrected_nanos) as stored,
    concat_ws(', ', made.calls, made.units, made.charged, made.corrected) as computed
  from billing_lines as line
  full join (
    select account_id, mode, booked_month, api_id, price_version, sum(calls) as calls,
      sum(units) as units, sum(charged) as charged, sum(corrected) as corrected
    from (
      select account_id, mode, booked_month, api_id, price_version, 1 as calls,
        case when outcome in (1, 4) then 0 else units end as units, charged_nanos as charged, 0 as corrected
      from usage_events
      union all
      select done.account_id, done.mode, done.booked_month, done.api_id, event.price_version, 0, 0,
        0, done.delta_nanos
      from usage_corrections as done
      join usage_events as event on event.account_id = done.account_id
        and event.position = done.event_position and event.ordinal = done.event_ordinal
    ) as parts
    group by account_id, mode, booked_month, api_id, price_version
  ) as made using (account_id, mode, booked_month, api_id, price_version)
  where (
      coalesce(line.calls, 0), coalesce(line.units, 0), coalesce(line.charged_nanos, 0),
      coalesce(line.corrected_nanos, 0)
    ) is distinct from (
      coalesce(made.calls, 0), coalesce(made.units, 0), coalesce(made.charged, 0),
      coalesce(made.corrected, 0)
    )
    and not exists (select from usage_partition_totals)
  order by booked_month, account_id, mode, api_id, price_version limit 1
`;

/** What a correction takes from its consumer it gives to the developer and the platform, whatever kinds that moves. */
const corrections = sql.type(wrongRow)`
  select concat_ws(' ', 'ledger_transfers, correction', id, account_id, mode) as "where",
    'amount_nanos' as field, coalesce(moved.net, 0)::text as stored,
    coalesce(made.net, 0)::text as computed
  from (
    select account_id, mode, id, sum(net) as net
    from (
      select account_id, mode, id, delta_nanos as net from usage_corrections
      union all
      select developer_account_id, mode, id, delta_fee_nanos - delta_nanos from usage_corrections
      union all
      select ${platformAccountId}, mode, id, -delta_fee_nanos from usage_corrections
    ) as sides
    group by account_id, mode, id
  ) as made
  full join (
    select account_id, mode, source_id as id,
      sum(case when credit_kind = 'clearing' then amount_nanos else -amount_nanos end) as net
    from ledger_transfers where source_type = 'correction'
    group by account_id, mode, source_id
  ) as moved using (account_id, mode, id)
  where coalesce(moved.net, 0) <> coalesce(made.net, 0)
  order by id, account_id, mode limit 1
`;

const balances = sql.type(wrongRow)`
  select concat_ws(' ', 'ledger_accounts', account_id, mode, kind) as "where",
    'debits_nanos, credits_nanos' as field,
    concat_ws(', ', balance.debits_nanos, balance.credits_nanos) as stored,
    concat_ws(', ', moved.debits, moved.credits) as computed
  from ledger_accounts as balance
  full join (
    select account_id, mode, kind, sum(debit) as debits, sum(credit) as credits
    from (
      select account_id, mode, debit_kind as kind, amount_nanos as debit, 0::int8 as credit
      from ledger_transfers
      union all
      select account_id, mode, credit_kind, 0, amount_nanos from ledger_transfers
    ) as sides
    group by account_id, mode, kind
  ) as moved using (account_id, mode, kind)
  where (coalesce(debits_nanos, 0), coalesce(credits_nanos, 0))
    is distinct from (coalesce(moved.debits, 0), coalesce(moved.credits, 0))
  order by account_id, mode, kind limit 1
`;

/**
 * Events that are removed may have spent from leases that are closed long since, and earlier versions did not keep
 * which events their leases paid: those are passed by.
 */
const leases = sql.type(wrongRow)`
  select concat_ws(' ', 'credit_leases', lease.account_id, lease.id) as "where",
    'spent_nanos' as field, lease.spent_nanos::text as stored,
    coalesce(spent.nanos, 0)::text as computed
  from credit_leases as lease
  left join (
    select account_id, lease_id, mode, sum(leased_nanos) as nanos from usage_events
    where leased_nanos > 0 group by account_id, lease_id, mode
  ) as spent on spent.account_id = lease.account_id and spent.lease_id = lease.id
    and spent.mode = lease.mode
  where lease.spent_nanos <> coalesce(spent.nanos, 0)
    and not exists (
      select from usage_events as event
      where event.account_id = lease.account_id and event.lease_id = lease.id
        and event.position < (select min(first_position) from projections)
    )
    and lease.created_at >= ${keptFrom}
  order by lease.account_id, lease.id limit 1
`;

const totalRow = z.object({ key: z.string(), nanos: z.bigint() });

/** What developers' events came to, and what accounts were charged: by the journal, and as the tables have it. */
async function compareTotals(tx: Tx, { totals }: Rerated): Promise<Difference | null> {
  const gross = await tx.any(sql.type(totalRow)`
    select concat_ws(' ', account_id, mode, fee_basis_points, shard) as key, gross_nanos as nanos
    from revenue_totals order by account_id, mode, fee_basis_points, shard
  `);
  const charged = await tx.any(sql.type(totalRow)`
    select concat_ws(' ', account_id, mode) as key, charged_nanos as nanos
    from charge_totals order by account_id, mode
  `);
  return (
    compareMaps("revenue_totals", gross, totals.gross) ??
    compareMaps("charge_totals", charged, totals.charged)
  );
}

function compareMaps(
  table: string,
  rows: readonly z.infer<typeof totalRow>[],
  computed: ReadonlyMap<string, bigint>,
): Difference | null {
  const stored = new Map(rows.map(({ key, nanos }) => [key, nanos]));
  for (const key of [...stored.keys(), ...computed.keys()]) {
    const [left, right] = [stored.get(key) ?? 0n, computed.get(key) ?? 0n];
    if (left !== right) {
      return { where: `${table} ${key}`, field: "nanos", stored: `${left}`, computed: `${right}` };
    }
  }
  return null;
}
