import { Code, type ConnectError, type ServiceImpl } from "@connectrpc/connect";
import type { AuthService } from "../../gen/callora/accounts/v1/auth_service_pb.ts";
import { callOf } from "../rpc/call.ts";
import { failedPrecondition, invalidArgument, reasoned } from "../rpc/errors.ts";
import { findOrCreatePerson } from "./identity.ts";
import { useChallenge } from "./identity-store.ts";
import { type SessionDeps, signIn } from "./sessions.ts";
import { findPerson } from "./store.ts";
import { type WalletAuth, type WalletProof, walletIssuer } from "./wallet.ts";

/** What signing in by wallet needs. */
export type WalletDeps = SessionDeps & {
  /** Undefined: nobody signs in by wallet here. */
  wallet: WalletAuth | undefined;
};

/** The handlers of AuthService for wallets. */
export function walletHandlers(
  deps: WalletDeps,
): Pick<ServiceImpl<typeof AuthService>, "getWalletChallenge" | "walletLogin"> {
  const { db } = deps;
  return {
    async getWalletChallenge(req) {
      const wallet = requireWallet(deps);
      if (req.homeDomain !== "" && req.homeDomain !== wallet.homeDomain) {
        const description = "is not the home domain of this server";
        throw invalidArgument([{ field: "home_domain", description }]);
      }
      const transaction = await wallet.challenge(req.account);
      return { transaction, networkPassphrase: wallet.passphrase };
    },

    async walletLogin({ transaction }, ctx) {
      const wallet = requireWallet(deps);
      const proof = await verify(wallet, transaction);
      if (proof === null || !(await db.systemTransaction((tx) => useChallenge(tx, proof)))) {
        throw invalidChallenge();
      }
      const { account } = proof;
      const owner = await findOrCreatePerson(deps, callOf(ctx), {
        identity: { issuer: walletIssuer(wallet.passphrase), subject: account },
        newcomer: {
          email: "",
          accountName: `${account.slice(0, 4)}...${account.slice(-4)}`,
          prefix: "wallet",
        },
      });
      const person = await db.systemTransaction((tx) => findPerson(tx, owner.userId));
      if (!person?.active) {
        throw invalidChallenge();
      }
      return signIn(deps, ctx, { ...owner, method: "wallet" });
    },
  };
}

function requireWallet({ wallet }: WalletDeps): WalletAuth {
  if (wallet === undefined) {
    const message = "Cannot sign in by wallet: this server has no key for challenges";
    throw failedPrecondition("WALLET_LOGIN_OFF", message);
  }
  return wallet;
}

async function verify(wallet: WalletAuth, transaction: string): Promise<WalletProof | null> {
  try {
    return await wallet.verify(transaction);
  } catch (cause) {
    const message = "Cannot sign in: the network does not say who may sign for the account";
    const reason = "NETWORK_UNAVAILABLE";
    throw reasoned(Code.Unavailable, { reason, message, retryAfterMs: 1000, cause });
  }
}

function invalidChallenge(): ConnectError {
  return reasoned(Code.Unauthenticated, {
    reason: "CHALLENGE_INVALID",
    message: "Cannot sign in: the challenge is not signed as it must be, is too old, or was used",
  });
}
