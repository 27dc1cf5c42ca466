import { Code, type ServiceImpl } from "@connectrpc/connect";
import type { SecretService } from "../../gen/callora/credentials/v1/secret_service_pb.ts";
import type { Audit, Database, Tenant } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import { invalidArgument, reasoned } from "../rpc/errors.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { wrongFields } from "./format.ts";
import { putFields } from "./put.ts";
import type { Sealer } from "./seal.ts";
import {
  type CredentialRef,
  credentialKey,
  credentialTopic,
  listCredentials,
  removeCredential,
  setEnabled,
} from "./store.ts";

/** What people keep here is for real calls. */
const environment = "live";

/** More than an account can have. */
const listedMax = 1_000;

/**
 * The handlers of proto/callora/credentials/v1/secret_service.proto.
 *
 * Setting a secret again changes nothing, so no answer is kept for a retry: what a request is compared by would be a
 * hash of the secret.
 */
export function secretService({
  db,
  trust,
  sealer,
  now,
}: {
  db: Database;
  trust: Pick<Trust, "announce" | "settled">;
  sealer: Sealer;
  now: () => Date;
}): ServiceImpl<typeof SecretService> {
  /** Once a change of a credential is answered, no process sends what was there before. */
  async function change<T>(
    tenant: Tenant,
    ref: CredentialRef,
    work: (tx: Tx, audit: Audit) => Promise<T>,
  ): Promise<T> {
    const { result, epoch } = await db.tenantTransaction(tenant, async (tx, audit) => {
      const done = await work(tx, audit);
      return {
        result: done,
        epoch: await trust.announce(tx, credentialTopic, [credentialKey(ref)]),
      };
    });
    await trust.settled(epoch);
    return result;
  }

  return {
    async listSecrets(_req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const rows = await db.tenantRead(accountId, (tx) =>
        listCredentials(tx, { accountId, environment, limit: listedMax }),
      );
      return {
        providers: Object.fromEntries(
          rows.map(({ provider, fields, enabled }) => [provider, { fields, enabled }]),
        ),
      };
    },

    async putSecret({ provider, keys }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const added = new Map(Object.entries(keys));
      const wrong = wrongFields(provider, added);
      if (wrong.length > 0) {
        throw invalidArgument(wrong);
      }
      const ref = { accountId, provider, environment } as const;
      return change(tenant, ref, async (tx, audit) => {
        await putFields({ tx, sealer, now: now() }, ref, added);
        audit.record(`secret:${provider}`, `set ${[...added.keys()].sort().join(", ")}`);
        return { success: true };
      });
    },

    async setSecretEnabled({ provider, enabled = false }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const ref = { accountId, provider, environment } as const;
      return change(tenant, ref, async (tx, audit) => {
        if (!(await setEnabled(tx, ref, { enabled, now: now() }))) {
          const message = `Provider '${provider}' not configured`;
          throw reasoned(Code.NotFound, { reason: "NOT_FOUND", message });
        }
        audit.record(`secret:${provider}`, enabled ? "enabled" : "disabled");
        return { success: true, enabled };
      });
    },

    async deleteSecret({ provider }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const ref = { accountId, provider, environment } as const;
      return change(tenant, ref, async (tx, audit) => {
        if (await removeCredential(tx, ref, now())) {
          audit.record(`secret:${provider}`);
        } else {
          audit.unchanged();
        }
        return { success: true };
      });
    },
  };
}
