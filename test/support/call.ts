import { randomUUID } from "node:crypto";
import type { Call } from "../../src/rpc/call.ts";
import { openPolicy } from "../../src/rpc/policy.ts";

/** A call that carries a credential, as authenticators see it. */
export function callWith(credential: string): Call {
  return {
    name: "x",
    policy: openPolicy,
    exchange: {
      requestId: randomUUID(),
      clientIp: "127.0.0.1",
      isSecure: false,
      protocol: "rest",
      method: "GET",
      setHeader: () => {},
    },
    header: new Headers({ authorization: `Bearer ${credential}` }),
    signal: new AbortController().signal,
    audited: false,
  };
}
