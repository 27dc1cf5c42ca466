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

/** How long a call that ends a key may take: a second, and what this machine's load adds to it. */
const endMsMax = 1_000 + 500;
const revocations = 8;

/** Ways to end a key. Each returns when the call has, and the key is over. */
const endings: readonly { end: (keys: Keys, keyId: string) => Promise<void>; code: VerifyCode }[] =
  [
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
      const begun = performance.now();
      await must(endingOf.get(secret)).end(keys, must(idOf.get(secret)));
      const tookMs = performance.now() - begun;
      verdicts.push(admin.verifyKey({ secret }));
      return tookMs;
    },
  });

  expect(lies).toEqual([]);
  expect(Math.max(...revokeMs)).toBeLessThan(endMsMax);
  expect(Math.min(...answered)).toBeGreaterThan(1_000);
  const codes = (await Promise.all(verdicts)).map(({ code }) => code);
  expect(codes).toEqual(endings.map(({ code }) => code));
});

async function revoke(keys: Keys, keyId: string): Promise<void> {
  await keys.revokeKey({ keyId });
}

async function disable(keys: Keys, keyId: string): Promise<void> {
  await keys.disableKey({ keyId });
}

async function expire(keys: Keys, keyId: string): Promise<void> {
  const expireAt = new Date(Date.now() + 200);
  await keys.updateKey({
    keyId,
    expireTime: timestampFromDate(expireAt),
    updateMask: { paths: ["expire_time"] },
  });
  await until(() => Date.now() > expireAt.getTime());
}
