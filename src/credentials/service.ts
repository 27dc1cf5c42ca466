import { Code, type ServiceImpl } from "@connectrpc/connect";
import type { SecretService } from "../../gen/callora/credentials/v1/secret_service_pb.ts";
import type { Database } from "../db/database.ts";
import { invalidArgument, reasoned } from "../rpc/errors.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { wrongFields } from "./format.ts";
import { putFields } from "./put.ts";
import type { Sealer } from "./seal.ts";
import { listCredentials, removeCredential, setEnabled } from "./store.ts";

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
  sealer,
  now,
}: {
  db: Database;
  sealer: Sealer;
  now: () => Date;
}): ServiceImpl<typeof SecretService> {
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
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const ref = { accountId, provider, environment } as const;
        await putFields({ tx, sealer, now: now() }, ref, added);
        audit.record(`secret:${provider}`, `set ${[...added.keys()].sort().join(", ")}`);
        return { success: true };
      });
    },

    async setSecretEnabled({ provider, enabled = false }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const ref = { accountId, provider, environment } as const;
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
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const ref = { accountId, provider, environment } as const;
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
