import { randomBytes } from "node:crypto";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** A mail to one person. */
export interface Mail {
  to: string;
  subject: string;
  /** Plain text. May hold a link that is as good as a password: never to be logged. */
  text: string;
}

/** Sends mail. */
export interface Mailer {
  /** Resolves once the mail is on its way. */
  send(mail: Mail): Promise<void>;
}

/** Told of each mail, without its address and its text. */
export type OnMail = (mail: { subject: string; file?: string }) => void;

/** Mails that the outbox keeps. The oldest are deleted. */
const mailsMax = 500;

/** Puts mails into files that only this user may read, for development: nothing leaves the machine. */
export function createOutbox({
  directory,
  now,
  onMail,
}: {
  directory: string;
  now: () => Date;
  onMail: OnMail;
}): Mailer {
  return {
    async send({ to, subject, text }) {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const name = `${now().getTime()}-${randomBytes(4).toString("hex")}.txt`;
      const file = join(directory, name);
      const mail = `To: ${oneLine(to)}\nSubject: ${oneLine(subject)}\n\n${text}\n`;
      // It appears whole or not at all.
      await writeFile(`${file}.new`, mail, { mode: 0o600 });
      await rename(`${file}.new`, file);
      await deleteOldest(directory);
      onMail({ subject, file });
    },
  };
}

/** Sends nothing, and says so for each mail: where nobody configured how mail is sent. */
export function createNoMailer({ onMail }: { onMail: OnMail }): Mailer {
  return {
    async send({ subject }) {
      onMail({ subject });
    },
  };
}

async function deleteOldest(directory: string): Promise<void> {
  const names = (await readdir(directory)).filter((name) => name.endsWith(".txt")).sort();
  for (const name of names.slice(0, Math.max(0, names.length - mailsMax))) {
    await rm(join(directory, name), { force: true });
  }
}

function oneLine(text: string): string {
  return text.replace(/[\r\n]+/g, " ");
}
