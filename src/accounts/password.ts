import { argon2, randomBytes, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";
import { createSemaphore } from "../lib/semaphore.ts";

const derive = promisify(argon2);

/** The least that OWASP asks of argon2id: 19 MiB, two passes, one lane. */
const cost = { memory: 19_456, passes: 2, parallelism: 1, tagLength: 32 };

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
  const nobody = { salt: randomBytes(16), tag: Buffer.alloc(cost.tagLength) };

  function tagOf(password: string, nonce: Buffer): Promise<Buffer> {
    return gate.run(async () =>
      Buffer.from(await derive("argon2id", { message: password, nonce, ...cost })),
    );
  }

  return {
    async hash(password) {
      const salt = randomBytes(16);
      const tag = await tagOf(password, salt);
      const { memory, passes, parallelism } = cost;
      const parameters = `m=${memory},t=${passes},p=${parallelism}`;
      return `$argon2id$v=19$${parameters}$${unpadded(salt)}$${unpadded(tag)}`;
    },
    async verify(password, hash) {
      const { salt, tag } = hash === undefined ? nobody : parseHash(hash);
      const given = await tagOf(password, salt);
      return timingSafeEqual(given, tag) && hash !== undefined;
    },
  };
}

function unpadded(bytes: Buffer): string {
  return bytes.toString("base64").replace(/=+$/, "");
}

function parseHash(hash: string): { salt: Buffer; tag: Buffer } {
  const [, , , , salt, tag] = hash.split("$");
  if (salt === undefined || tag === undefined) {
    throw new Error("Cannot check a password: its hash is not in PHC form");
  }
  return { salt: Buffer.from(salt, "base64"), tag: Buffer.from(tag, "base64") };
}
