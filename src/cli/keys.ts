import { KeyService } from "../../gen/callora/keys/v1/key_service_pb.ts";
import { existingAccounts } from "../accounts/store.ts";
import { findApiTarget } from "../catalog/store.ts";
import { mintSecret } from "../keys/secret.ts";
import { insertKey, type NewKey as NewKeyRow } from "../keys/store.ts";
import { isId, newId } from "../lib/id.ts";
import { methodPolicy } from "../rpc/policy.ts";
import type { Mode } from "../rpc/principal.ts";
import { type Context, operator, UsageError } from "./context.ts";
import { withParts } from "./parts.ts";

/** Which key is to be made. */
export interface NewKey {
  account: string;
  /** An API's id or slug. */
  api: string;
  mode: Mode;
  name: string;
}

/** Make a key for an account, and print its secret, which is kept nowhere. */
export async function createKey(context: Context, options: NewKey): Promise<void> {
  const { print, now } = context;
  const { account: accountId, mode, name } = options;
  if (!isId("acc", accountId)) {
    throw new UsageError(`Cannot create a key: "${accountId}" is not an account id (acc_...)`);
  }
  const secret = mintSecret(mode);
  const key = await withParts(context, async ({ db }) => {
    const { isKnown, api } = await db.systemTransaction(async (tx) => ({
      isKnown: (await existingAccounts(tx, [accountId])).has(accountId),
      api: await findApiTarget(tx, options.api),
    }));
    if (!isKnown) {
      throw new Error(`Cannot create a key: there is no account ${accountId}`);
    }
    if (api === null) {
      throw new Error(`Cannot create a key: there is no published API "${options.api}"`);
    }
    const tenant = operator(accountId, methodPolicy(KeyService.method.createKey).auditAction);
    return db.tenantTransaction(tenant, async (tx, audit) => {
      const id = newId("key", now());
      const maker = { userId: tenant.actor, createdBy: tenant.actor };
      const owner = { accountId, id, familyId: id, ...maker, apiId: api.id, mode };
      const rules = { ...noRules, displayName: name };
      const made: NewKeyRow = { ...owner, ...rules, ...secret, state: "active" };
      if (!(await insertKey(tx, made))) {
        throw new Error(`Cannot create a key: the account has an active ${mode} key for it`);
      }
      audit.record(`api_key:${id}`);
      return made;
    });
  });
  print(`Made ${key.id} for ${accountId} and API ${key.apiId} (${mode})`);
  print(`Its secret, shown this once: ${secret.plain}`);
}

/** Neither limited nor allowed anything in particular. */
const noRules = {
  expireAt: null,
  scopes: [],
  allowedCidrs: [],
  rateLimitPerMinute: null,
  rateLimitPerDay: null,
  metadata: {},
};
