import { argon2, randomBytes, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";
import { createSemaphore } from "../lib/semaphore.ts";

const derive = promisify(argon2);

/** The least that OWASP asks of argon2id: 19 MiB, two passes, one lane. */
const cost = { memory: 19_456, passes: 2, parallelism: 1, tagLength: 32 };

type Cost = typeof cost;

/** Hashes and checks passwords. */
export interface PasswordHasher {
  /** A salted argon2id hash in PHC form. */
  hash(password: string): Promise<string>;
  /** Whether the password is the hash's. Without a hash it does the same work and says no. */
  verify(password: string, hash: string | undefined): Promise<boolean>;
}

/**
 * A hasher that works on two passwords at a time.
 *
 * argon2 runs on the four threads that look-ups and files also use: more at once would stall those.
 */
export function createPasswordHasher(): PasswordHasher {
  const gate = createSemaphore({ permits: 2, waitersMax: 200, waitMs: 5_000 });
  const nobody = { salt: randomBytes(16), tag: Buffer.alloc(cost.tagLength), cost };

  function tagOf(password: string, nonce: Buffer, parameters: Cost): Promise<Buffer> {
    return gate.run(async () =>
      Buffer.from(await derive("argon2id", { message: password, nonce, ...parameters })),
    );
  }

  return {
    async hash(password) {
      const salt = randomBytes(16);
      const tag = await tagOf(password, salt, cost);
      const { memory, passes, parallelism } = cost;
      const parameters = `m=${memory},t=${passes},p=${parallelism}`;
      return `$argon2id$v=19$${parameters}$${unpadded(salt)}$${unpadded(tag)}`;
    },
    async verify(password, hash) {
      const { salt, tag, cost } = hash === undefined ? nobody : parseHash(hash);
      const given = await tagOf(password, salt, cost);
      return timingSafeEqual(given, tag) && hash !== undefined;
    },
  };
}

function unpadded(bytes: Buffer): string {
  return bytes.toString("base64").replace(/=+$/, "");
}

/** What a hash was made with: a later change of the cost locks nobody out. */
function parseHash(hash: string): { salt: Buffer; tag: Buffer; cost: Cost } {
  const match = /^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([^$]+)\$([^$]+)$/.exec(hash);
  if (match === null) {
    throw new Error("Cannot check a password: its hash is not in PHC form");
  }
  const [, memory, passes, parallelism, salt = "", text = ""] = match;
  const tag = Buffer.from(text, "base64");
  return {
    salt: Buffer.from(salt, "base64"),
    tag,
    cost: {
      memory: Number(memory),
      passes: Number(passes),
      parallelism: Number(parallelism),
      tagLength: tag.length,
    },
  };
}
