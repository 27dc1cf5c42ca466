import { expect, test } from "vitest";
import { decodeRow, encodeRow } from "../src/metering/codec.ts";
import { must } from "./support/app.ts";
import { firstDifference, leaseOf, newAccountId, openBooks, usage } from "./support/books.ts";

const timeout = 120_000;

/** Money of every kind, in known places: 1.0 … 1.2, and what is kept aside at 1.3 and 2.0. */
async function openKnownBooks() {
  const books = await openBooks();
  const [account, developer] = [newAccountId(0), newAccountId()];
  await books.grant(account, 10_000n);
  const lease = await leaseOf(books, account, 2_000n);
  const paid = usage({ account, developer, charged: "1001", lease });
  await books.journal.append([
    paid,
    usage({ account, developer, charged: "9000" }),
    usage({ account, developer, charged: "77", endpoint: "GET /y", mode: "test" }),
    { ...paid, endpoint: "GET /other" },
    paid,
  ]);
  await books.plant(Buffer.from("no entry"));
  await books.project();
  return Object.assign(books, { account, developer });
}

/** What somebody with all rights may change, and what is named as the first difference then. */
const tampers: { what: string; sql: string; where: RegExp; field: RegExp }[] = [
  ...(
    [
      ["charged_nanos", "charged_nanos + 1"],
      ["fee_nanos", "fee_nanos + 1"],
      ["units", "2"],
      ["price_version", "9"],
      ["fee_basis_points", "9"],
      ["source", "'other'"],
      ["id", "'other'"],
      ["mode", "'test'"],
      ["api_id", "'other'"],
      ["developer_account_id", "'other'"],
      ["key_id", "'other'"],
      ["endpoint", "'other'"],
      ["status_code", "404"],
      ["occurred_at", "occurred_at + interval '1 microsecond'"],
      ["booked_month", "booked_month + 31"],
      ["charged_before_nanos", "5"],
      ["lease_id", "'other'"],
      ["shard", "1"],
      ["body_hash", "'other'"],
      ["data", "'{}'"],
      ["batch_position", "9"],
      ["received_at", "received_at + interval '1 millisecond'"],
    ] as const
  ).map(([column, value]) => ({
    what: `usage_events.${column}`,
    sql: `update usage_events set ${column} = ${value} where position = 1 and ordinal = 1`,
    where: /^1\.1$/,
    field: new RegExp(`^${column}( \\(µs\\))?$`),
  })),
  {
    what: "usage_events.leased_nanos",
    sql: "update usage_events set leased_nanos = 0 where ordinal = 0",
    where: /^ledger_transfers, batch 0:…-2$/,
    field: /clearing$/,
  },
  {
    what: "usage_events.owed_nanos",
    sql: "update usage_events set owed_nanos = owed_nanos + 1 where ordinal = 1",
    where: /^ledger_transfers, batch 0:…-2$/,
    field: /consumer clearing$/,
  },
  {
    what: "usage_events.leased_nanos, a part of the charge",
    sql: "update usage_events set leased_nanos = 1 where ordinal = 0",
    where: /^1\.0$/,
    field: /^leased_nanos$/,
  },
  ...["duplicates", "conflicts"].map((column) => ({
    what: `usage_events.${column}`,
    sql: `update usage_events set ${column} = ${column} + 1 where ordinal = 0`,
    where: new RegExp(`^usage_events, ${column}$`),
    field: /^rows$/,
  })),
  {
    what: "usage_quarantine.reason",
    sql: "update usage_quarantine set reason = 'OVER_LIMIT' where ordinal = 3",
    where: /^1\.3$/,
    field: /^quarantine.reason$/,
  },
  {
    what: "usage_quarantine.mode",
    sql: "update usage_quarantine set mode = 'test' where ordinal = 3",
    where: /^1\.3$/,
    field: /^quarantine.mode$/,
  },
  {
    what: "usage_quarantine.state",
    sql: "update usage_quarantine set state = 'dismissed' where ordinal = 3",
    where: /^1\.3$/,
    field: /^quarantine.state$/,
  },
  {
    what: "revenue_totals.fee_nanos",
    sql: "update revenue_totals set fee_nanos = fee_nanos + 1 where mode = 'live'",
    where: /^revenue_totals acc_\w+ live 1000 0$/,
    field: /^fee_nanos$/,
  },
  {
    what: "usage_events.key",
    sql: "update usage_events set key = 'other' where ordinal = 1",
    where: /^1\.1$/,
    field: /^applied$/,
  },
  {
    what: "usage_events.received_month",
    sql: "update usage_events set received_month = received_month - interval '1 month' where ordinal = 1",
    where: /^1\.1$/,
    field: /^received_month$/,
  },
  {
    what: "usage_events.ordinal",
    sql: "update usage_events set ordinal = 9 where ordinal = 1",
    where: /^1\.1$/,
    field: /^applied$/,
  },
  {
    what: "a row of usage_events that is gone",
    sql: "delete from usage_events where ordinal = 2",
    where: /^1\.2$/,
    field: /^applied$/,
  },
  {
    what: "a row of usage_events more",
    sql: `insert into usage_events select (jsonb_populate_record(event, '{"key": "x"}')).*
          from usage_events as event where ordinal = 2`,
    where: /^1\.2$/,
    field: /^event$/,
  },
  {
    what: "usage_quarantine.raw",
    sql: "update usage_quarantine set raw = 'x' where ordinal = 3",
    where: /^1\.3$/,
    field: /^quarantine.raw$/,
  },
  {
    what: "usage_quarantine.charged_nanos",
    sql: "update usage_quarantine set charged_nanos = 5 where ordinal = 3",
    where: /^1\.3$/,
    field: /^quarantine.charged_nanos$/,
  },
  {
    what: "usage_quarantine.account_id",
    sql: "update usage_quarantine set account_id = 'other' where ordinal = 3",
    where: /^1\.3$/,
    field: /^quarantine.account_id$/,
  },
  {
    what: "a conflict that is not kept",
    sql: "delete from usage_quarantine where ordinal = 3",
    where: /^1\.3$/,
    field: /^applied$/,
  },
  {
    what: "what cannot be read and is not kept",
    sql: "delete from usage_quarantine where position = 2",
    where: /^2\.0$/,
    field: /^quarantine$/,
  },
  {
    what: "a row of usage_quarantine more",
    sql: `insert into usage_quarantine (shard, position, ordinal, account_id, reason)
          values (0, 1, 9, '', 'CONFLICT')`,
    where: /^1\.9$/,
    field: /^quarantine$/,
  },
  {
    what: "a row of usage_quarantine for an event that is applied",
    sql: `insert into usage_quarantine (shard, position, ordinal, account_id, reason)
          values (0, 1, 1, '', 'CONFLICT')`,
    where: /^1\.1$/,
    field: /^applied$/,
  },
  {
    what: "a row of usage_journal that is gone",
    sql: "delete from usage_journal where position = 1",
    where: /^1$/,
    field: /^row$/,
  },
  ...[
    "events",
    "duplicates",
    "conflicts",
    "quarantined",
    "charged_live_nanos",
    "charged_test_nanos",
    "fee_nanos",
  ].map((column) => ({
    what: `projections.${column}`,
    sql: `update projections set ${column} = ${column} + 1`,
    where: /^projections, batch 0:1-2$/,
    field: new RegExp(`^${column}$`),
  })),
  {
    what: "projections.rating_hash",
    sql: "update projections set rating_hash = sha256('')",
    where: /^projections, batch 0:1-2$/,
    field: /^rating_hash$/,
  },
  {
    what: "ledger_transfers.amount_nanos of usage",
    sql: `update ledger_transfers set amount_nanos = amount_nanos + 1
          where source_type = 'usage' and mode = 'live' and credit_kind = 'payable'`,
    where: /^ledger_transfers, batch 0:…-2$/,
    field: /live clearing payable$/,
  },
  {
    what: "ledger_transfers.position of usage",
    sql: `update ledger_transfers set position = 1
          where source_type = 'usage' and mode = 'live' and credit_kind = 'payable'`,
    where: /^ledger_transfers, batch 0:…-2$/,
    field: /live clearing payable$/,
  },
  {
    what: "a transfer of usage more",
    sql: `insert into ledger_transfers (account_id, id, mode, debit_kind, credit_kind, amount_nanos,
            source_type, source_id, position)
          values ('acc_x', 'trf_' || repeat('0', 26), 'live', 'clearing', 'payable', 7, 'usage', 'x', 2)`,
    where: /^ledger_transfers trf_0+$/,
    field: /^acc_x live clearing payable$/,
  },
  {
    what: "ledger_transfers.amount_nanos of a grant",
    sql: `update ledger_transfers set amount_nanos = amount_nanos + 1
          where source_type = 'grant' and credit_kind = 'consumer'`,
    where: /^ledger_accounts acc_\w+ live clearing$/,
    field: /^debits_nanos, credits_nanos$/,
  },
  {
    what: "ledger_accounts",
    sql: "update ledger_accounts set credits_nanos = credits_nanos + 1 where kind = 'payable' and mode = 'test'",
    where: /^ledger_accounts acc_\w+ test payable$/,
    field: /^debits_nanos, credits_nanos$/,
  },
  {
    what: "a balance that is gone",
    sql: "delete from ledger_accounts where kind = 'platform_fee' and mode = 'live'",
    where: /^ledger_accounts acc_0+ live platform_fee$/,
    field: /^debits_nanos, credits_nanos$/,
  },
  ...["calls", "errors", "charged_nanos"].map((column) => ({
    what: `usage_rollups.${column}`,
    sql: `update usage_rollups set ${column} = ${column} + 1 where mode = 'test'`,
    where: /^usage_rollups acc_\w+ test api_0+ /,
    field: /^calls, errors, charged_nanos$/,
  })),
  ...["calls", "errors", "revenue_nanos"].map((column) => ({
    what: `revenue_rollups.${column}`,
    sql: `update revenue_rollups set ${column} = ${column} + 1 where mode = 'test'`,
    where: /^revenue_rollups acc_\w+ test api_0+ /,
    field: /^calls, errors, revenue_nanos$/,
  })),
  {
    what: "revenue_totals",
    sql: "update revenue_totals set gross_nanos = gross_nanos + 1 where mode = 'live'",
    where: /^revenue_totals acc_\w+ live 1000 0$/,
    field: /^nanos$/,
  },
  {
    what: "charge_totals",
    sql: "update charge_totals set charged_nanos = charged_nanos + 1 where mode = 'live'",
    where: /^charge_totals acc_\w+ live$/,
    field: /^nanos$/,
  },
  {
    what: "credit_leases",
    sql: "update credit_leases set spent_nanos = spent_nanos - 1",
    where: /^credit_leases acc_\w+ lea_\w+$/,
    field: /^spent_nanos$/,
  },
];

test("whatever is tampered with is named as the first difference, with both values", {
  timeout,
}, async () => {
  await using books = await openKnownBooks();
  expect(await firstDifference(books)).toBeNull();
  const { superuser } = books;
  await superuser.query("set session_replication_role = replica");
  // The other transaction does not see what this one does: a copy of the database is put back each time.
  const tables = [
    "usage_events",
    "usage_quarantine",
    "usage_journal",
    "projections",
    "ledger_transfers",
    "ledger_accounts",
    "usage_rollups",
    "revenue_rollups",
    "revenue_totals",
    "charge_totals",
    "credit_leases",
  ];
  for (const table of tables) {
    await superuser.query(`create table kept_${table} as table ${table}`);
  }
  const unnamed: object[] = [];
  for (const { what, sql, where, field } of tampers) {
    const { rowCount } = await superuser.query(sql);
    expect(rowCount, what).toBe(1);
    const found = await firstDifference(books);
    if (
      found === null ||
      !where.test(found.where) ||
      !field.test(found.field) ||
      found.stored === found.computed
    ) {
      unnamed.push({ what, found });
    }
    for (const table of tables.filter((name) => sql.includes(name))) {
      await superuser.query(`delete from ${table}`);
      await superuser.query(`insert into ${table} select * from kept_${table}`);
    }
  }
  expect(unnamed).toEqual([]);
  expect(await firstDifference(books)).toBeNull();
});

test("an entry that is changed in the journal is named in its place, with what is stored of it", async () => {
  await using books = await openKnownBooks();
  const { rows } = await books.superuser.query("select body from usage_journal where position = 1");
  const entries = decodeRow({ codec: 1, body: rows[0].body }).entries.flatMap((entry) =>
    entry.kind === "usage" ? [entry] : [],
  );
  const [first, second, ...rest] = entries;
  const dearer = { ...must(second), price: { ...must(second).price, unitNanos: 9_100n } };
  await books.superuser.query("set session_replication_role = replica");
  await books.superuser.query("update usage_journal set body = $1 where position = 1", [
    encodeRow([must(first), dearer, ...rest]),
  ]);

  expect(await firstDifference(books)).toEqual({
    where: "1.1",
    field: "charged_nanos",
    stored: "9000",
    computed: "9100",
  });
});

test.for(["leased_nanos", "owed_nanos"] as const)(
  "what paid two events of a batch is not the other way round: %s",
  async (column) => {
    await using books = await openBooks();
    const [account, developer] = [newAccountId(0), newAccountId()];
    await books.grant(account, 1_000n);
    const lease = column === "leased_nanos" ? await leaseOf(books, account, 600n, 600n) : null;
    const event = () => usage({ account, developer, charged: "600", lease });
    await books.journal.append([event(), event()]);
    await books.project();
    expect(await firstDifference(books)).toBeNull();

    await books.superuser.query(
      `update usage_events as event set leased_nanos = other.leased_nanos, owed_nanos = other.owed_nanos
     from usage_events as other where other.ordinal = 1 - event.ordinal`,
    );

    expect(await firstDifference(books)).toMatchObject({ where: "1.1", field: column });
  },
);

test("roll-ups and leases are compared for as long as all of their events are there", async () => {
  await using books = await openKnownBooks();
  const { superuser } = books;
  await superuser.query(
    `insert into usage_partition_totals (
       received_month, mode, events, charged_nanos, fee_nanos, last_position
     ) values ('2026-01-01', 'live', 0, 0, 0, 0)`,
  );
  await superuser.query("update usage_rollups set calls = calls + 1 where mode = 'test'");
  const young = await firstDifference(books);
  await superuser.query("update usage_partition_totals set received_month = '2026-11-01'");
  const old = await firstDifference(books);

  expect(young?.field).toBe("calls, errors, charged_nanos");
  expect(old).toBeNull();
});
