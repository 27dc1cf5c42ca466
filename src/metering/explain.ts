import { Code, type ServiceImpl } from "@connectrpc/connect";
import type { MeteringService } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { reasoned } from "../rpc/errors.ts";

/** The handler that explains what an event cost. */
export function explainMethods(): Pick<ServiceImpl<typeof MeteringService>, "explainCharge"> {
  return {
    explainCharge() {
      const message = "Cannot explain a charge: not there yet";
      throw reasoned(Code.Unimplemented, { reason: "NOT_IMPLEMENTED", message });
    },
  };
}
