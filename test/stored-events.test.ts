import { expect, test } from "vitest";
import { toCandidate } from "../src/metering/decide.ts";
import { findStored } from "../src/metering/stored-events.ts";
import { must } from "./support/app.ts";
import { newAccountId, openBooks, seeded, usage } from "./support/books.ts";

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

test(`what is stored is found, and nothing else, whatever ids are like (seed ${seed})`, {
  timeout: 180_000,
}, async () => {
  await using books = await openBooks();
  const random = seeded(seed);
  const below = (count: number) => Math.floor(random() * count);
  const developer = newAccountId();
  const accounts = [newAccountId(0), newAccountId(0), newAccountId(1)];
  const sources = ["a", "b", "b1"];
  const rows = new Map<string, string>();
  let grown = 0;
  // Ids that grow, ids in no order, ids of which all are stored, and such as the database orders otherwise than we do.
  const makers = [
    () => `grown-${String(grown++).padStart(8, "0")}`,
    () => `${below(1e9)}`,
    () => `few-${below(40)}`,
    () => `x${must(["\u{10000}", "\uffee", "\ue000", "z"][below(4)])}${below(60)}`,
  ];
  const draw = () => {
    const account = must(accounts[below(accounts.length)]);
    const source = must(sources[below(sources.length)]);
    const fresh = must(makers[below(makers.length)])();
    const known = [...rows.keys()];
    const again = known.length > 0 && random() < 0.1 ? known[below(known.length)] : undefined;
    const [, oldAccount, oldSource, oldId] = again?.split("|") ?? [];
    return usage({
      account: oldAccount ?? account,
      source: oldSource ?? source,
      id: oldId ?? fresh,
      developer,
      charged: "0",
    });
  };

  for (let round = 0; round < 12; round++) {
    const entries = Array.from({ length: 1 + below(400) }, draw);
    const receivedAt = new Date();
    const receivedMonth = `${receivedAt.toISOString().slice(0, 7)}-01`;
    const candidates = entries.map((entry, ordinal) =>
      toCandidate({ entry, place: { position: 1n, ordinal }, receivedAt, receivedMonth }),
    );
    const months = random() < 0.5 ? null : [receivedMonth];
    const stored = await books.db.systemTransaction((tx) => findStored(tx, { candidates, months }));
    for (const { entry, identity, key } of candidates) {
      const name = `|${entry.account}|${entry.source}|${entry.id}`;
      const found = stored.get(identity)?.map((one) => [one.key, one.hash.toString("hex")]);
      const hash = rows.get(name);
      expect(found, `seed ${seed} ${name}`).toEqual(hash === undefined ? undefined : [[key, hash]]);
    }
    await books.journal.append(entries);
    await books.project();
    for (const { entry, hash } of candidates) {
      const name = `|${entry.account}|${entry.source}|${entry.id}`;
      rows.set(name, rows.get(name) ?? hash.toString("hex"));
    }
  }

  expect(await books.sum("select count(*) as sum from usage_events")).toBe(BigInt(rows.size));
  expect(rows.size).toBeGreaterThan(300);
});
