import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { AuditOutcome, type AuditService } from "../../gen/callora/audit/v1/audit_service_pb.ts";
import type { Database } from "../db/database.ts";
import { splitPage } from "../lib/page-token.ts";
import { invalidArgument } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { type AuditRow, listAllAudit, listAudit } from "./store.ts";

/** The handlers of proto/callora/audit/v1/audit_service.proto. */
export function auditService({ db }: { db: Database }): ServiceImpl<typeof AuditService> {
  return {
    async listAuditLogs(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { size, before } = auditPage(req);
      const rows = await db.tenantRead(accountId, (tx) =>
        listAudit(tx, { accountId, filter: filterOf(req), before, limit: size + 1 }),
      );
      return toPage(rows, size);
    },

    async adminListAuditLogs(req) {
      const { size, before } = auditPage(req);
      const list = { filter: filterOf(req), before, limit: size + 1 };
      const rows = await (req.accountId === ""
        ? db.systemTransaction((tx) => listAllAudit(tx, list))
        : db.tenantRead(req.accountId, (tx) =>
            listAudit(tx, { accountId: req.accountId, ...list }),
          ));
      return toPage(rows, size);
    },
  };
}

function auditPage(req: { pageSize: number; pageToken: string }) {
  const { size, after } = pageOf(req);
  if (after !== "" && !/^\d{1,18}$/.test(after)) {
    throw invalidArgument([{ field: "page_token", description: "is not of this list" }]);
  }
  return { size, before: after === "" ? null : BigInt(after) };
}

function filterOf(req: { userId: string; action: string; resource: string }) {
  return { actor: req.userId, action: req.action, resource: req.resource };
}

function toPage(rows: readonly AuditRow[], size: number) {
  const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id.toString() });
  return { logs: page.map(toLog), nextPageToken };
}

const outcomeOf = {
  done: AuditOutcome.DONE,
  refused: AuditOutcome.REFUSED,
} satisfies Record<AuditRow["outcome"], AuditOutcome>;

function toLog(row: AuditRow) {
  return {
    id: row.id,
    actorUserId: row.actor_user_id,
    action: row.action,
    resource: row.resource,
    ip: row.ip ?? "",
    createdAt: timestampFromMs(row.created_at),
    outcome: outcomeOf[row.outcome],
    accountId: row.account_id,
    requestId: row.request_id,
    detail: row.detail,
  };
}
