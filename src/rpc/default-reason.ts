import { Code } from "@connectrpc/connect";

/**
 * The `google.rpc.ErrorInfo` reason of an error that brings none, in upper case with underscores: one of a
 * handler, or one that connect-node makes of a request that it cannot read. Those it tells apart by their
 * words alone.
 */
export function defaultReason(code: Code, message: string): string {
  const known = byWords.find(([of, words]) => of === code && words.test(message));
  return known?.[2] ?? (Code[code] ?? "Unknown").replace(/(?<=[a-z])[A-Z]/g, "_$&").toUpperCase();
}

const byWords: readonly (readonly [Code, RegExp, string])[] = [
  [Code.InvalidArgument, /^/, "REQUEST_INVALID"],
  [Code.Unimplemented, /^protocol error: /, "REQUEST_INVALID"],
  [Code.Internal, /^(?:parse binary: |received compressed envelope)/, "REQUEST_INVALID"],
  [Code.Unimplemented, /^unknown compression "/, "COMPRESSION_UNSUPPORTED"],
  [Code.ResourceExhausted, /is larger than configured readMaxBytes/, "BODY_TOO_LARGE"],
];
