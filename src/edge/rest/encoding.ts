/** What a reply can be compressed with. */
export type Encoding = "zstd" | "br" | "gzip";

// In the order of preference among those that a client wants alike: the least work first.
const encodings: readonly Encoding[] = ["zstd", "br", "gzip"];

/** Choose how to compress a reply, from an Accept-Encoding header. Undefined: not at all. */
export function chooseEncoding(acceptEncoding: string | undefined): Encoding | undefined {
  if (acceptEncoding === undefined || acceptEncoding === "") {
    return undefined;
  }
  const qualities = new Map<string, number>();
  for (const element of acceptEncoding.split(",")) {
    const [, name, q = "1"] =
      /^\s*([-!#$%&'*+.^_`|~\w]+)\s*(?:;\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?$/i.exec(
        element,
      ) ?? [];
    if (name !== undefined) {
      const key = name.toLowerCase();
      qualities.set(key === "x-gzip" ? "gzip" : key, Number(q));
    }
  }
  const any = qualities.get("*") ?? 0;
  let chosen: Encoding | undefined;
  // A client that says nothing of it takes a plain reply too, but wants it least.
  let best = qualities.get("identity") ?? 0;
  for (const encoding of encodings) {
    const quality = qualities.get(encoding) ?? any;
    if (quality > 0 && (chosen === undefined ? quality >= best : quality > best)) {
      chosen = encoding;
      best = quality;
    }
  }
  return chosen;
}
