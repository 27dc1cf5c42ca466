import { insertServiceToken } from "../accounts/service-token-store.ts";
import { mintToken } from "../accounts/token.ts";
import { platformAccountId } from "../ledger/store.ts";
import { newId } from "../lib/id.ts";
import { type Context, operator, UsageError } from "./context.ts";
import { withParts } from "./parts.ts";

/** What a service may be allowed: the scopes that the contract's policies name. */
export const serviceScopes = ["keys.verify", "usage.record"] as const;

/** Which service's token is to be made. */
export interface NewService {
  name: string;
  scopes: readonly string[];
}

/** Make a token for an internal service, and print it: it is kept nowhere. */
export async function createService(context: Context, { name, scopes }: NewService): Promise<void> {
  const { print, now } = context;
  if (!/^[A-Za-z0-9._-]{1,64}$/.test(name)) {
    throw new UsageError("Cannot create a service: its name must be letters, digits, and ._-");
  }
  const known: readonly string[] = serviceScopes;
  const wrong = scopes.find((scope) => !known.includes(scope));
  if (wrong !== undefined) {
    const choices = serviceScopes.join(", ");
    throw new UsageError(`Cannot create a service: "${wrong}" is no scope; there are ${choices}`);
  }
  const { token, hash } = mintToken("svc");
  const id = newId("svt", now());
  const unique = [...new Set(scopes)];
  await withParts(context, async ({ db }) => {
    const tenant = operator(platformAccountId, "service_token.create");
    await db.platformTransaction(tenant, async (tx, audit) => {
      await insertServiceToken(tx, { id, name, hash, scopes: unique });
      audit.record(`service_token:${id}`, `${name}: ${unique.join(", ")}`);
    });
  });
  print(`Made ${id} for the service "${name}" (${unique.join(", ")})`);
  print(`Its token, shown this once: ${token}`);
}
