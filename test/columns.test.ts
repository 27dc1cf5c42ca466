import { randomInt } from "node:crypto";
import { sql } from "slonik";
import { expect } from "vitest";
import { z } from "zod";
import { type Column, selectColumns, unnestColumns } from "../src/db/columns.ts";
import { seeded } from "./support/books.ts";
import { test } from "./support/test.ts";

const row = z.object({
  text: z.string().nullable(),
  date: z.string().nullable(),
  int4: z.number().nullable(),
  int8: z.bigint().nullable(),
  micros: z.bigint().nullable(),
  bytea: z.instanceof(Buffer).nullable(),
});

type Row = z.infer<typeof row>;

const columns: Column<Row>[] = [
  { type: "text", of: ({ text }) => text },
  { type: "date", of: ({ date }) => date },
  { type: "int4", of: ({ int4 }) => int4 },
  { type: "int8", of: ({ int8 }) => int8 },
  { type: "timestamptz", of: ({ micros }) => micros },
  { type: "bytea", of: ({ bytea }) => bytea },
];

const texts = ["", "NULL", "null", '"', "\\", "{},", "é€😀", " ", "\n\t", "a".repeat(9_000)];
const int8s = [0n, -1n, 2n ** 63n - 1n, -(2n ** 63n)];
const dates = ["1970-01-01", "1999-12-31", "2000-01-01", "2026-11-22", "9999-12-31", "0001-01-01"];

test("rows come as they were given, whatever is in them", async ({ app }) => {
  const seed = randomInt(2 ** 31);
  const random = seeded(seed);
  const pick = <T>(list: readonly T[]) => list[Math.floor(random() * list.length)] ?? null;
  const orNull = <T>(value: T) => (random() < 0.2 ? null : value);
  for (const count of [0, 1, 2, 300]) {
    const rows = Array.from(
      { length: count },
      (): Row => ({
        text: orNull(pick(texts)),
        date: orNull(pick(dates)),
        int4: orNull(pick([0, -1, 2 ** 31 - 1, -(2 ** 31)])),
        int8: orNull(pick(int8s)),
        micros: orNull(BigInt(Math.floor((random() - 0.2) * 9e15))),
        bytea: orNull(Buffer.from(pick(texts) ?? "")),
      }),
    );

    for (const toRows of [unnestColumns, selectColumns]) {
      const found = await app.db.systemTransaction((tx) =>
        tx.any(sql.type(row)`
          select text, date::text as date, int4, int8,
            (extract(epoch from time) * 1000000)::int8 as micros, bytea
          from ${toRows(rows, columns)} as one (text, date, int4, int8, time, bytea)
        `),
      );

      expect(found, `${toRows.name}, seed ${seed}`).toEqual(rows);
    }
  }
});
