import { BindError, HttpError } from "./errors.ts";
import type { MessagesFormat } from "./media-type.ts";

/** Cuts a body into messages as it arrives, without parsing them. */
export interface Splitter {
  /** The messages that are whole with this chunk. Throws BindError, or HttpError 413 for a long one. */
  push(chunk: Uint8Array): Uint8Array[];
  /** The last message, if the body's end completes it. Throws BindError for a body cut short. */
  end(): Uint8Array[];
}

/** Prepare to cut a body of messages, each of `bytesMax` at most. */
export function createSplitter(format: MessagesFormat, bytesMax: number): Splitter {
  return format === "lines" ? createLineSplitter(bytesMax) : createArraySplitter(bytesMax);
}

/** The bytes of a message whose end has not come. */
function createRest(bytesMax: number) {
  let parts: Uint8Array[] = [];
  let size = 0;
  return {
    add(part: Uint8Array) {
      size += part.length;
      if (size > bytesMax) {
        throw new HttpError(413, `Cannot read body: a message has more than ${bytesMax} bytes`);
      }
      if (part.length > 0) {
        parts.push(part);
      }
    },
    take(): Uint8Array {
      const [only] = parts;
      const whole = parts.length === 1 && only ? only : Buffer.concat(parts);
      parts = [];
      size = 0;
      return whole;
    },
  };
}

const newline = 0x0a;

function createLineSplitter(bytesMax: number): Splitter {
  const rest = createRest(bytesMax);
  const takeLine = (): Uint8Array[] => {
    const line = rest.take();
    return line.every(isSpace) ? [] : [line];
  };
  return {
    push(chunk) {
      const lines: Uint8Array[] = [];
      let start = 0;
      for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
        rest.add(chunk.subarray(start, end));
        lines.push(...takeLine());
        start = end + 1;
      }
      rest.add(chunk.subarray(start));
      return lines;
    },
    end: takeLine,
  };
}

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const openBracket = 0x5b;
const closeBracket = 0x5d;
const openBrace = 0x7b;
const closeBrace = 0x7d;

function createArraySplitter(bytesMax: number): Splitter {
  const rest = createRest(bytesMax);
  let place: "before" | "first" | "element" | "next" | "after" = "before";
  let depth = 0;
  let quoted = false;
  let escaped = false;

  // Where the element that this byte belongs to ends: before it, or not yet.
  function endsElement(byte: number): boolean {
    if (quoted) {
      if (escaped) {
        escaped = false;
      } else if (byte === backslash) {
        escaped = true;
      } else if (byte === quote) {
        quoted = false;
      }
      return false;
    }
    if (byte === quote) {
      quoted = true;
    } else if (byte === openBrace || byte === openBracket) {
      depth++;
    } else if (depth > 0 && (byte === closeBrace || byte === closeBracket)) {
      depth--;
    } else if (depth === 0) {
      return byte === comma || byte === closeBracket;
    }
    return false;
  }

  function outside(byte: number): void {
    if (isSpace(byte)) {
      return;
    }
    if (place === "before" && byte === openBracket) {
      place = "first";
    } else if (place === "first" && byte === closeBracket) {
      place = "after";
    } else if (place === "before" || place === "after") {
      throw notArray();
    } else if (byte === comma || byte === closeBracket) {
      throw notArray();
    } else {
      place = "element";
    }
  }

  return {
    push(chunk) {
      const elements: Uint8Array[] = [];
      let start = 0;
      for (let index = 0; index < chunk.length; index++) {
        const byte = chunk[index] ?? 0;
        if (place !== "element") {
          outside(byte);
          start = index;
        }
        if (place === "element" && endsElement(byte)) {
          rest.add(chunk.subarray(start, index));
          elements.push(rest.take());
          place = byte === comma ? "next" : "after";
        }
      }
      if (place === "element") {
        rest.add(chunk.subarray(start));
      }
      return elements;
    },
    end() {
      if (place !== "after") {
        throw notArray();
      }
      return [];
    },
  };
}

function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === newline || byte === 0x0d || byte === 0x09;
}

function notArray(): BindError {
  return new BindError([{ field: "", description: "body is not a JSON array of messages" }]);
}
