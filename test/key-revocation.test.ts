import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Client } from "@connectrpc/connect";
import { expect } from "vitest";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { VerifyCode } from "../gen/callora/keys/v1/verification_pb.ts";
import { must, until } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { deaf, healthy, revokeUnderLoad, stopped } from "./support/revoke-under-load.ts";
import { test } from "./support/test.ts";
import { verifyAt } from "./support/trust-processes.ts";

type Keys = Client<typeof KeyService>;

/** How long most calls that end a key may take: a second, and what this machine's load adds to it. */
const endMsUsual = 1_000 + 500;
/** How long any of them may: nobody waits for a process that says nothing. */
const endMsMax = 10_000;
const revocations = 8;

/** Ways to end a key. Each resolves when the key is over, with how long the call took, in milliseconds. */
const endings: readonly {
  end: (keys: Keys, keyId: string) => Promise<number>;
  code: VerifyCode;
}[] = [
  ...Array.from({ length: revocations }, () => ({ end: revoke, code: VerifyCode.DISABLED })),
  { end: disable, code: VerifyCode.DISABLED },
  { end: expire, code: VerifyCode.EXPIRED },
];

test("no process calls a key valid once it was revoked, be one of them stopped and one deaf", {
  timeout: 90_000,
}, async ({ app }) => {
  const admin = app.client(KeyService, (await newPerson(app.db, "super_admin")).token);
  const keys = app.client(KeyService, (await newPerson(app.db)).token);
  const made = await Promise.all(endings.map(() => keys.createKey({})));
  const { secret: lasting } = await keys.createKey({});
  const endingOf = new Map(made.map(({ secret }, index) => [secret, must(endings[index])]));
  const idOf = new Map(made.map(({ key, secret }) => [secret, must(key).id]));
  const verdicts: Promise<{ code: VerifyCode }>[] = [];
  // So that the server remembers them too.
  await Promise.all(made.map(({ secret }) => admin.verifyKey({ secret })));

  const { lies, answered, revokeMs } = await revokeUnderLoad({
    url: app.urls.worker,
    faults: [healthy, stopped, deaf],
    keys: made.map(({ secret }) => secret),
    lasting,
    ask: verifyAt,
    async revoke(_first, secret) {
      const tookMs = await must(endingOf.get(secret)).end(keys, must(idOf.get(secret)));
      verdicts.push(admin.verifyKey({ secret }));
      return tookMs;
    },
  });

  expect(lies).toEqual([]);
  expect(revokeMs.toSorted((a, b) => a - b)[revokeMs.length >> 1]).toBeLessThan(endMsUsual);
  expect(Math.max(...revokeMs)).toBeLessThan(endMsMax);
  expect(Math.min(...answered)).toBeGreaterThan(200);
  const codes = (await Promise.all(verdicts)).map(({ code }) => code);
  expect(codes).toEqual(endings.map(({ code }) => code));
});

function revoke(keys: Keys, keyId: string): Promise<number> {
  return timed(() => keys.revokeKey({ keyId }));
}

function disable(keys: Keys, keyId: string): Promise<number> {
  return timed(() => keys.disableKey({ keyId }));
}

async function expire(keys: Keys, keyId: string): Promise<number> {
  // What has ended already when it arrives is refused.
  const expireAt = new Date(Date.now() + 3_000);
  const tookMs = await timed(() =>
    keys.updateKey({
      keyId,
      expireTime: timestampFromDate(expireAt),
      updateMask: { paths: ["expire_time"] },
    }),
  );
  await until(() => Date.now() > expireAt.getTime());
  return tookMs;
}

async function timed(call: () => Promise<unknown>): Promise<number> {
  const begunMs = performance.now();
  await call();
  return performance.now() - begunMs;
}
