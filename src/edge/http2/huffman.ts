/**
 * Bits of the code of each byte, then of the end of a string (RFC 7541, appendix B). The codes follow from them: the
 * shorter ones come first, and those of one length in the order of the bytes.
 */
// biome-ignore format: 24 in a row.
const lengths = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
  28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
  5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
  7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
  7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
  24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
  23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
  21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
  26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const endOfString = 256;

/**
 * What four bits lead to, by the node of the tree that they start from: the next node, in the low byte; above it the
 * byte that was completed on the way, if `hasByte`. No code is shorter than five bits.
 */
const steps = new Uint32Array(256 * 16);
const hasByte = 1 << 16;
const isBroken = 1 << 17;

/** The nodes that a string may end in: after less than a byte of nothing but ones. */
const isEnd = new Uint8Array(256);

buildSteps();

/** What is decoded. It grows with the longest text there was, which the size of a header block limits. */
let scratch = Buffer.allocUnsafeSlow(4_096);

/** The text of `bytes` from `start` to `end`, one byte a character. Undefined: they are not valid. */
export function decodeHuffman(bytes: Buffer, start: number, end: number): string | undefined {
  const sizeMax = Math.ceil(((end - start) * 8) / 5);
  if (scratch.length < sizeMax) {
    scratch = Buffer.allocUnsafeSlow(2 * sizeMax);
  }
  let node = 0;
  let size = 0;
  for (let index = start; index < end; index++) {
    const byte = bytes[index] as number;
    for (let shift = 4; shift >= 0; shift -= 4) {
      const step = steps[node * 16 + ((byte >> shift) & 15)] as number;
      if (step >= hasByte) {
        if (step >= isBroken) {
          return undefined;
        }
        scratch[size++] = step >> 8;
      }
      node = step & 255;
    }
  }
  return isEnd[node] === 1 ? scratch.toString("latin1", 0, size) : undefined;
}

type Node = [Node | number | undefined, Node | number | undefined];

function buildSteps(): void {
  const nodes = toNodes(buildTree());
  const numbers = new Map(nodes.map((node, index) => [node, index]));
  for (const [number, from] of nodes.entries()) {
    for (let bits = 0; bits < 16; bits++) {
      let node = from;
      let step = 0;
      for (let shift = 3; shift >= 0; shift--) {
        const next = node[((bits >> shift) & 1) as 0 | 1];
        if (typeof next === "object") {
          node = next;
        } else if (next === undefined || next === endOfString) {
          step = isBroken;
          break;
        } else {
          step = hasByte | (next << 8);
          node = nodes[0] as Node;
        }
      }
      steps[number * 16 + bits] = step | (numbers.get(node) ?? 0);
    }
  }
  let padding: Node | number | undefined = nodes[0];
  for (let bits = 0; bits < 8 && typeof padding === "object"; bits++) {
    isEnd[numbers.get(padding) ?? 0] = 1;
    padding = padding[1];
  }
}

function buildTree(): Node {
  const root: Node = [undefined, undefined];
  const symbols = lengths.map((length, symbol) => ({ length, symbol }));
  symbols.sort((a, b) => a.length - b.length || a.symbol - b.symbol);
  let code = 0;
  let previous = 0;
  for (const { length, symbol } of symbols) {
    code <<= length - previous;
    previous = length;
    let node = root;
    for (let shift = length - 1; shift > 0; shift--) {
      const bit = ((code >> shift) & 1) as 0 | 1;
      const next = node[bit] ?? [undefined, undefined];
      node[bit] = next;
      node = next as Node;
    }
    node[(code & 1) as 0 | 1] = symbol;
    code += 1;
  }
  return root;
}

/** The inner nodes, the root first. */
function toNodes(root: Node): Node[] {
  const nodes = [root];
  for (const node of nodes) {
    for (const next of node) {
      if (typeof next === "object") {
        nodes.push(next);
      }
    }
  }
  return nodes;
}
