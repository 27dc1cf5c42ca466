import type { ServiceImpl } from "@connectrpc/connect";
import type { KeyService } from "../../gen/callora/keys/v1/key_service_pb.ts";
import { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { type Call, callOf } from "../rpc/call.ts";
import { invalidArgument } from "../rpc/errors.ts";
import { applyVerdict } from "../rpc/limit.ts";
import type { Limiter } from "../rpc/limiter.ts";
import { limitedId, type Principal, requirePrincipal, roles } from "../rpc/principal.ts";
import { rates } from "../rpc/rates.ts";
import type { KnownKey } from "./known-key.ts";
import { toVerdict } from "./message.ts";
import { type Permission, PermissionError, parsePermission } from "./permission.ts";
import type { Verifier } from "./verify.ts";

/** The handler of VerifyKey. Answers without a promise when memory tells. */
export function verifyHandler({
  verifier,
  limiter,
  now,
}: {
  verifier: Verifier;
  limiter: Limiter;
  now: () => Date;
}): ServiceImpl<typeof KeyService>["verifyKey"] {
  return (req, ctx) => {
    const caller = requirePrincipal(ctx);
    const use = {
      apiId: req.apiId === "" ? null : req.apiId,
      clientIp: req.clientIp === "" ? null : req.clientIp,
      permission: readPermission(req.permissions),
      cost: req.cost ?? 1,
    };
    const verify = () => {
      const outcome = verifier.verify(req.secret, use, (key) => maySee(caller, key));
      return outcome instanceof Promise ? outcome.then(toVerdict) : toVerdict(outcome);
    };
    return isPlatform(caller) ? verify() : limited(limiter, callOf(ctx), now()).then(verify);
  };
}

/** Whether somebody may learn of a key: it is of their account, or they act for the platform. */
function maySee(caller: Principal, key: KnownKey): boolean {
  return isPlatform(caller) || key.accountId === caller.accountId;
}

function isPlatform(caller: Principal): boolean {
  if (caller.kind === "service") {
    return caller.scopes.includes("keys.verify");
  }
  return caller.kind === "user" && roles.indexOf(caller.role) >= roles.indexOf("admin");
}

/** Throws RESOURCE_EXHAUSTED when somebody who does not act for the platform asks too often. */
async function limited(limiter: Limiter, { principal, exchange }: Call, now: Date): Promise<void> {
  const rate = rates[RateClass.VERIFY];
  if (rate === undefined || principal === undefined) {
    return;
  }
  applyVerdict(exchange, await limiter.take([{ id: `verify:${limitedId(principal)}`, rate }], now));
}

/** Null: nothing is asked. Throws INVALID_ARGUMENT when the expression cannot be read. */
function readPermission(text: string): Permission | null {
  if (text === "") {
    return null;
  }
  try {
    return parsePermission(text);
  } catch (error) {
    if (error instanceof PermissionError) {
      throw invalidArgument([{ field: "permissions", description: error.message }]);
    }
    throw error;
  }
}
