import { create, toBinary } from "@bufbuild/protobuf";
import { VerifyKeyRequestSchema } from "../../test/gen/callora/test/v1/bench_service_pb.ts";

/** A credential that the edge with all of its steps admits. */
export const bearer = "ck_live_0123456789abcdef0123456789abcdef";

/** What is asked, the same of every server. */
export const question = { key: bearer, apiId: "api_weather", cost: 3 };

/** What each must answer. */
export interface Answer {
  valid: boolean;
  keyId: string;
  ownerId: string;
  remaining: number;
  scopes: string[];
}

/** The work behind every server: next to none. */
export function verify({ key, cost }: { key: string; cost: number }): Answer {
  return {
    valid: key.startsWith("ck_"),
    keyId: "key_01hzy3v9k2m4",
    ownerId: "acc_01hzy3v9k2m4",
    remaining: 1000 - cost,
    scopes: ["read", "write"],
  };
}

/** The paths of the two calls. */
export const paths = {
  post: "/v1/keys:verify",
  get: `/v1/keys/${bearer}/check?apiId=api_weather&cost=3&detailed=true`,
  rpc: "/callora.test.v1.BenchService/VerifyKey",
};

/** The question as one gRPC message. */
export function grpcFrame(): Buffer {
  const message = toBinary(VerifyKeyRequestSchema, create(VerifyKeyRequestSchema, question));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}
