import {
  AuditOutcome,
  AuditService,
  ListAuditLogsResponseSchema,
} from "../../../gen/callora/audit/v1/audit_service_pb.ts";
import type { Clients } from "./clients.ts";
import type { Person } from "./market.ts";
import { Mismatch } from "./report.ts";

/** A record that the log must have. */
export interface ExpectedRecord {
  /** Whose log, and who did it. */
  person: Person;
  action: string;
  /** What the record's resource must name. */
  resource: string;
}

const pageSize = 250;

/**
 * Find each record in the log of its person, over REST, and in the admin's view of that account,
 * over gRPC. Returns how many were looked for.
 */
export async function checkAudit(
  { rest, grpc }: Clients,
  admin: Person,
  expected: readonly ExpectedRecord[],
): Promise<number> {
  for (const person of new Set(expected.map((record) => record.person))) {
    const own = await rest({
      method: "GET",
      path: `/api/audit-logs?page_size=${pageSize}`,
      token: person.token,
      response: ListAuditLogsResponseSchema,
    });
    const seen = await grpc(AuditService.method.adminListAuditLogs, admin.token, {
      pageSize,
      accountId: person.accountId,
    });
    for (const { action, resource } of expected.filter((record) => record.person === person)) {
      for (const [whose, { logs }] of [
        ["their own log", own] as const,
        ["the admin's view", seen] as const,
      ]) {
        const found = logs.some(
          (log) =>
            log.action === action &&
            log.resource.includes(resource) &&
            log.outcome === AuditOutcome.DONE &&
            log.actorUserId === person.id,
        );
        if (!found) {
          const actions = [...new Set(logs.map((log) => log.action))].join(", ");
          const got = `${logs.length} records: ${actions}`;
          const what = `audit records of ${person.username} in ${whose}`;
          throw new Mismatch(what, { expected: `${action} of ${resource}`, got });
        }
      }
    }
  }
  return expected.length;
}
