import { Code, type ServiceImpl } from "@connectrpc/connect";
import type { MeteringService } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { reasoned } from "../rpc/errors.ts";

/** The handlers that list applied events and send them as they come. */
export function watchMethods(): Pick<
  ServiceImpl<typeof MeteringService>,
  "listEvents" | "watchEvents"
> {
  return {
    listEvents() {
      const message = "Cannot list events: not there yet";
      throw reasoned(Code.Unimplemented, { reason: "NOT_IMPLEMENTED", message });
    },
    watchEvents() {
      const message = "Cannot watch events: not there yet";
      throw reasoned(Code.Unimplemented, { reason: "NOT_IMPLEMENTED", message });
    },
  };
}
