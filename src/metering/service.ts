import type { ServiceImpl } from "@connectrpc/connect";
import type { MeteringService } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { explainMethods } from "./explain.ts";
import { type LookUpDeps, lookUpMethods } from "./look-up.ts";
import { type RecordDeps, recordMethods } from "./record.ts";
import { type WatchDeps, watchMethods } from "./watch.ts";

/** The handlers of proto/callora/metering/v1/metering_service.proto. */
export function meteringService(
  deps: RecordDeps & LookUpDeps & WatchDeps,
): ServiceImpl<typeof MeteringService> {
  return {
    ...recordMethods(deps),
    ...lookUpMethods(deps),
    ...watchMethods(deps),
    ...explainMethods(deps),
  };
}
