import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { ServiceTokenService } from "../../gen/callora/accounts/v1/service_token_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import { notFound } from "../rpc/errors.ts";
import { requireTenant } from "../rpc/principal.ts";
import {
  listServiceTokens,
  revokeServiceToken,
  type ServiceTokenRow,
} from "./service-token-store.ts";
import { optionalTime } from "./shown.ts";

/** The handlers of proto/callora/accounts/v1/service_token_service.proto. */
export function serviceTokenService({
  db,
  trust,
  now,
}: {
  db: Database;
  trust: Trust;
  now: () => Date;
}): ServiceImpl<typeof ServiceTokenService> {
  return {
    async listServiceTokens() {
      const rows = await db.systemTransaction(listServiceTokens);
      return { serviceTokens: rows.map(toServiceToken) };
    },

    async revokeServiceToken({ serviceTokenId: id }, ctx) {
      const { row, epoch } = await db.platformTransaction(requireTenant(ctx), async (tx, audit) => {
        const token = await revokeServiceToken(tx, { id, now: now() });
        if (token === null) {
          throw notFound("the service's token");
        }
        audit.record(`service_token:${id}`);
        const hash = token.token_hash.toString("hex");
        return { row: token, epoch: await trust.announce(tx, "service_token", [hash]) };
      });
      await trust.settled(epoch);
      return { serviceToken: toServiceToken(row) };
    },
  };
}

function toServiceToken(row: ServiceTokenRow) {
  return {
    id: row.id,
    name: row.name,
    scopes: row.scopes,
    createTime: timestampFromMs(row.created_at),
    ...optionalTime("lastUseTime", row.last_used_at),
    ...optionalTime("revokeTime", row.revoked_at),
  };
}
