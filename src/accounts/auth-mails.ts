import type { Mailer } from "./mail.ts";

/** Sends what people need to prove that they read the mail of an address. */
export interface AuthMails {
  verifyAddress(to: string, url: string): Promise<void>;
  resetPassword(to: string, url: string): Promise<void>;
}

/**
 * Write the mails. Each holds one link, which works for an hour: that for a password once; that which confirms an
 * address for the address, whoever has it by then, since whoever opens it reads its mail.
 */
export function createAuthMails(mailer: Mailer): AuthMails {
  return {
    verifyAddress: (to, url) =>
      mailer.send({
        to,
        subject: "Confirm your address",
        text: `Open this link to confirm that this is your address:\n\n${url}\n\nIf you did not sign up, do nothing.`,
      }),
    resetPassword: (to, url) =>
      mailer.send({
        to,
        subject: "Choose a new password",
        text: `Open this link to choose a new password:\n\n${url}\n\nIf you did not ask for it, do nothing: your password stays as it is.`,
      }),
  };
}
