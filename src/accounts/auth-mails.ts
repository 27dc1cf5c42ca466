import type { Mailer } from "./mail.ts";

/** Sends what people need to prove that they read the mail of an address. */
export interface AuthMails {
  verifyAddress(to: string, url: string): Promise<void>;
  resetPassword(to: string, url: string): Promise<void>;
}

/** Write the mails. Each holds one link, which works once and for an hour. */
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
