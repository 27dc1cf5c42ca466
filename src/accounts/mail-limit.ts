import { createHash } from "node:crypto";
import { rateLimited } from "../rpc/errors.ts";
import { perMinute } from "../rpc/gcra.ts";
import type { Limiter } from "../rpc/limiter.ts";
import type { Mailer } from "./mail.ts";

/** Ten at once to one address, then one in ten minutes, whoever has them sent. */
const mailRate = perMinute(0.1, 10);

/**
 * Send no more mail to one address than anybody needs: strangers say where it goes.
 *
 * `send` rejects with RESOURCE_EXHAUSTED, reason RATE_LIMITED, beyond that.
 */
export function createLimitedMailer({
  mail,
  limiter,
  now,
}: {
  mail: Mailer;
  limiter: Limiter;
  now: () => Date;
}): Mailer {
  return {
    async send(one) {
      // Where limits are counted, addresses of people have no business.
      const address = createHash("sha256").update(one.to.toLowerCase()).digest("base64url");
      const limit = { id: `mail:${address}`, rate: mailRate, isOfStranger: true };
      const verdict = await limiter.take([limit], now());
      if (!verdict.allowed) {
        throw rateLimited(verdict.retryAfterMs);
      }
      await mail.send(one);
    },
  };
}
