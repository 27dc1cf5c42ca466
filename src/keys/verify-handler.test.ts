import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { VerifyCode, VerifyKeyRequestSchema } from "../../gen/callora/keys/v1/verification_pb.ts";
import { directTrust } from "../../test/support/direct-trust.ts";
import { createDatabase } from "../db/database.ts";
import type { Pool } from "../db/pool.ts";
import { type Call, callKey } from "../rpc/call.ts";
import { createLimiter } from "../rpc/limiter.ts";
import { openPolicy } from "../rpc/policy.ts";
import type { Principal } from "../rpc/principal.ts";
import { createQuotas } from "./quota.ts";
import { mintSecret } from "./secret.ts";
import { createUseLog } from "./use-log.ts";
import { createVerifier } from "./verify.ts";
import { verifyHandler } from "./verify-handler.ts";

const at = { id: "x_1", accountId: "acc_1" };
const session = {
  memberRole: "owner",
  homeAccountId: "acc_1",
  credential: "session",
  credentialId: "ses_1",
} as const;
const person: Principal = { kind: "user", ...at, role: "developer", mode: "live", ...session };
const admin: Principal = { kind: "user", ...at, role: "admin", mode: "live", ...session };
const key: Principal = {
  kind: "key",
  familyId: "key_1",
  createdBy: "usr_1",
  ...at,
  apiId: null,
  mode: "live",
  scopes: ["keys.verify"],
};
const service: Principal = { kind: "service", ...at, scopes: ["keys.verify"], mode: "live" };
const other: Principal = { kind: "service", ...at, scopes: ["usage.record"], mode: "live" };

test("garbage is refused without a look-up, well-formed secrets are looked up", async () => {
  const ask = createAsker();

  expect(await ask(service, "garbage")).toBe(VerifyCode.NOT_FOUND);
  const { plain } = mintSecret("live");
  const changed = plain.slice(0, -1) + (plain.endsWith("x") ? "y" : "x");
  expect(await ask(service, changed)).toBe(VerifyCode.NOT_FOUND);
  await expect(ask(service, plain)).rejects.toThrow("there is no database");
});

test.for([
  { name: "a person", caller: person, accepted: 200 },
  { name: "the holder of an API key", caller: key, accepted: 200 },
  { name: "a service for something else", caller: other, accepted: 200 },
  { name: "an admin", caller: admin, accepted: 300 },
  { name: "a service that verifies keys", caller: service, accepted: 300 },
])("of 300 questions of $name at once $accepted are answered", async ({ caller, accepted }) => {
  const ask = createAsker();

  const outcomes = await Promise.allSettled(
    Array.from({ length: 300 }, () => ask(caller, "garbage")),
  );

  const refused = outcomes.flatMap((one) => (one.status === "rejected" ? [one.reason] : []));
  expect(outcomes.length - refused.length).toBe(accepted);
  expect(refused.every((error) => ConnectError.from(error).code === Code.ResourceExhausted)).toBe(
    true,
  );
});

test("an account that asks too often is told its limit, and when to come again", async () => {
  const headers = new Headers();
  const ask = createAsker(headers);
  for (let call = 0; call < 200; call++) {
    await ask(person, "garbage");
  }

  await expect(ask(person, "garbage")).rejects.toMatchObject({ code: Code.ResourceExhausted });

  expect(Object.fromEntries(headers)).toMatchObject({
    "x-ratelimit-limit": "200",
    "x-ratelimit-remaining": "0",
    "retry-after": "1",
  });
});

/** Ask at a moment that does not pass, without a database. Resolves to the code of the verdict. */
function createAsker(headers = new Headers()) {
  const now = () => new Date(0);
  const none: Pool = {
    transaction: () => Promise.reject(new Error("there is no database")),
    statement: () => Promise.reject(new Error("there is no database")),
    end: async () => {},
  };
  const db = createDatabase({ app: none, worker: none, appendAudit: async () => {} });
  const limiter = createLimiter();
  const parts = { limiter, quotas: createQuotas({ db, now }), useLog: createUseLog({ db }), now };
  const verifier = createVerifier({ db, trust: directTrust, ...parts });
  const handler = verifyHandler({ verifier, limiter, now });
  return async (principal: Principal, secret: string) => {
    const context = { values: createContextValues().set(callKey, callOf(principal, headers)) };
    const request = create(VerifyKeyRequestSchema, { secret });
    return (await handler(request, context as HandlerContext)).code;
  };
}

function callOf(principal: Principal, headers: Headers): Call {
  return {
    name: "",
    policy: openPolicy,
    exchange: {
      requestId: "",
      clientIp: "",
      isSecure: false,
      protocol: "grpc",
      method: "POST",
      setHeader: (name, value) => headers.set(name, value),
    },
    header: new Headers(),
    signal: AbortSignal.abort(),
    principal,
    audited: false,
  };
}
