// The load of the bench in a process of its own: `load.ts JOB`, with the job as JSON. Prints the outcome as JSON.
import { readFile } from "node:fs/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import { VerifyKeyRequestSchema } from "../../gen/callora/keys/v1/verification_pb.ts";
import { type Extent, runCalls } from "./http2-load.ts";

/** What to send, to whom. */
export interface Job {
  port: number;
  path: string;
  headers: [name: string, value: string][];
  /** A file with one secret a line, each for one message. */
  secrets?: string;
  /** The one message, in hexadecimal digits. */
  message?: string;
  extent: Extent;
}

if (import.meta.main) {
  const { secrets, message = "", extent, ...rest }: Job = JSON.parse(process.argv[2] ?? "");
  const messages =
    secrets === undefined
      ? [Buffer.from(message, "hex")]
      : (await readFile(secrets, "utf8")).split("\n").map(toMessage);
  console.log(JSON.stringify(await runCalls({ ...rest, messages }, extent)));
}

function toMessage(secret: string): Buffer {
  const bytes = toBinary(VerifyKeyRequestSchema, create(VerifyKeyRequestSchema, { secret }));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}
