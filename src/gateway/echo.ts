import { notBuilt } from "../rpc/errors.ts";

/** A test call of an API that has no test upstream. */
export interface EchoedCall {
  method: string;
  path: string;
  /** Without the "?". */
  query: string;
  /** Names and values by turns: what an upstream would have got. */
  headers: readonly string[];
  body: Buffer | null;
}

/** Make the reply to a test call that goes nowhere: what an upstream would have got, as JSON. */
export function echoReply(_call: EchoedCall): {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
} {
  throw notBuilt("the echo of test calls");
}
