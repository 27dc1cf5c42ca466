import { isUtf8 } from "node:buffer";

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

/** Most bytes of a body that are sent back. */
const bodyBytesMax = 65_536;

/**
 * Make the reply to a test call that goes nowhere: what an upstream would have got, as JSON.
 *
 * A body is there as text, or in Base64 when it is none, up to 64 KiB of it.
 */
export function echoReply({ method, path, query, headers, body }: EchoedCall): {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
} {
  const shown = { echo: true, method, path, query, headers: byName(headers), ...shownBody(body) };
  return {
    status: 200,
    headers: { "content-type": "application/json" },
    body: Buffer.from(JSON.stringify(shown)),
  };
}

/** By name in lower case. What is sent several times is joined, as HTTP has it. */
function byName(headers: readonly string[]): Record<string, string> {
  const joined = new Map<string, string>();
  for (let index = 0; index + 1 < headers.length; index += 2) {
    const name = headers[index]?.toLowerCase() ?? "";
    const value = headers[index + 1] ?? "";
    const before = joined.get(name);
    joined.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  return Object.fromEntries(joined);
}

function shownBody(body: Buffer | null) {
  if (body === null) {
    return { body: "", encoding: "text", bodyBytes: 0 };
  }
  // Cut text is none when the cut is within a character: then it is shown as bytes.
  const part = body.subarray(0, bodyBytesMax);
  const encoding = isUtf8(part) ? "text" : "base64";
  const text = part.toString(encoding === "text" ? "utf8" : "base64");
  return { body: text, encoding, bodyBytes: body.length };
}
