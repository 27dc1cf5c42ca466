import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { must } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { queryAll } from "./support/query.ts";
import { test } from "./support/test.ts";
import { startTrustProcess, unknowns } from "./support/trust-processes.ts";

const usesMax = 1_000n;
const cost = 3;
const verifications = 5_000;
/** Before the processes compete, each has granted a third of these. */
const early = 30;
/** So many yeses have arrived when the third process is killed: midway. */
const yesesBeforeKill = 100;

test("of 5000 verifications of cost three at three processes, one of them killed, a quota of 1000 grants 333", async ({
  app,
}) => {
  const keys = app.client(KeyService, (await newPerson(app.db)).token);
  const { key, secret } = await keys.createKey({ quota: { usesMax } });
  const { superuser, worker } = app.urls;
  await noteTakings(superuser);
  await using first = await startTrustProcess(named(worker, "0"));
  await using second = await startTrustProcess(named(worker, "1"));
  await using third = await startTrustProcess(named(worker, "2"));
  const processes = [first, second, third];
  const tallies = processes.map(() => ({ yes: 0, no: 0, lost: 0 }));
  async function verify(index: number) {
    const tally = must(tallies[index % 3]);
    const process = must(processes[index % 3]);
    const question = { verb: "verify", key: secret, cost } as const;
    let answer = await process.send(question);
    // One that cannot know of the key has taken nothing.
    for (let tries = 0; unknowns.includes(answer.error ?? "") && tries < 1_000; tries++) {
      answer = await process.send(question);
    }
    const { code } = answer;
    tally.yes += code === "VALID" ? 1 : 0;
    tally.no += code === "USAGE_EXCEEDED" ? 1 : 0;
    tally.lost += code === undefined ? 1 : 0;
    if (tallies.reduce((sum, { yes }) => sum + yes, 0) === yesesBeforeKill) {
      third.child.kill("SIGKILL");
    }
  }
  const indexes = Array.from({ length: verifications }, (_verification, index) => index);

  await Promise.all(indexes.slice(0, early).map(verify));
  await Promise.all(
    indexes.slice(early).map(async (index) => {
      // In rounds, so that the processes' statements meet.
      await sleep(Math.floor(index / 25) * 2);
      await verify(index);
    }),
  );

  const { key: after } = await keys.getKey({ keyId: must(key).id });
  const granted = await readGrants(superuser);
  const yeses = tallies.map(({ yes }) => yes);
  expect(after?.quota?.usesLeft).toBe(1n);
  expect(granted.reduce((sum, grants) => sum + grants, 0)).toBe(333);
  // Whoever lived answered all, and said yes exactly as often as it took uses.
  expect(tallies.slice(0, 2).map(({ yes, no }) => yes + no)).toEqual([1667, 1667]);
  expect(yeses.slice(0, 2)).toEqual(granted.slice(0, 2));
  // The one that was killed said yes at most as often: some of its yeses died with it.
  expect(yeses[2]).toBeLessThanOrEqual(must(granted[2]));
  expect(Math.min(...granted)).toBeGreaterThanOrEqual(early / 3);
  expect(tallies[2]?.lost).toBeGreaterThan(0);
});

/** The addresses for a process whose statements bear a name. */
function named(worker: string, name: string) {
  const url = new URL(worker);
  url.searchParams.set("application_name", name);
  return { workerUrl: url.href, listenUrl: worker };
}

/** From now on note who takes how many uses, in the transaction that takes them. */
async function noteTakings(superuser: string): Promise<void> {
  await queryAll(
    superuser,
    `create table test_takings (process text not null, uses bigint not null);
     create function test_note_taking() returns trigger language plpgsql security definer as $$
     begin
       insert into test_takings
       values (current_setting('application_name'), old.uses_left - new.uses_left);
       return null;
     end $$;
     create trigger test_note_taking after update on key_quotas
     for each row execute function test_note_taking()`,
  );
}

/** How many verifications each process granted. */
async function readGrants(superuser: string): Promise<number[]> {
  const rows = await queryAll(
    superuser,
    `select coalesce(sum(test_takings.uses), 0)::float8 / ${cost} as grants
     from generate_series(0, 2) as names (name)
     left join test_takings on test_takings.process = names.name::text
     group by names.name order by names.name`,
  );
  return rows.map(({ grants }) => Number(grants));
}
