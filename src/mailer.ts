import { join } from "node:path";
import { createNoMailer, createOutbox, type Mailer } from "./accounts/mail.ts";
import type { Config } from "./config.ts";
import type { Logger } from "./log.ts";

/** In production nothing is put into files that nobody asked for: mail that cannot be sent is not kept. */
export function createMailer({
  config,
  log,
  now,
}: {
  config: Config;
  log: Logger;
  now: () => Date;
}): Mailer {
  if (config.environment === "production") {
    const onMail = ({ subject }: { subject: string }) =>
      log.warn("Cannot send a mail: no mailer is configured", { reason: subject });
    return createNoMailer({ onMail });
  }
  return createOutbox({
    directory: join(config.dataDir, "outbox"),
    now,
    onMail: ({ subject, file }) =>
      log.info("Put a mail into the outbox", { reason: subject, file }),
  });
}
