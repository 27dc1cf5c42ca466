import { Code, type ServiceImpl } from "@connectrpc/connect";
import type { MeteringService } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { reasoned } from "../rpc/errors.ts";

/** The handlers that send applied events as they come. */
export function watchMethods(): Pick<ServiceImpl<typeof MeteringService>, "watchEvents"> {
  return {
    watchEvents() {
      const message = "Cannot watch events: not there yet";
      throw reasoned(Code.Unimplemented, { reason: "NOT_IMPLEMENTED", message });
    },
  };
}
