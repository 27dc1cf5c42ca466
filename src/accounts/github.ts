import { type GithubProfile, github } from "better-auth/social-providers";
import { z } from "zod";

/** How to sign in with GitHub, or with a GitHub Enterprise server. */
export interface GithubConfig {
  readonly clientId: string;
  readonly clientSecret: string;
  /** Where people sign in, `https://github.com`. */
  readonly url: string;
  /** Where their profiles are, `https://api.github.com`. */
  readonly apiUrl: string;
}

/** The longest that each answer of GitHub is waited for. */
const timeoutMs = 10_000;

const tokenAnswer = z.object({
  access_token: z.string().min(1),
  token_type: z.string(),
  scope: z.string().optional(),
});
const profileAnswer = z.looseObject({
  id: z.number(),
  login: z.string(),
  name: z.string().nullish(),
  avatar_url: z.string().nullish(),
});
const emailsAnswer = z.array(
  z.object({ email: z.string(), primary: z.boolean(), verified: z.boolean() }),
);

type Github = ReturnType<typeof github>;

/**
 * GitHub for better-auth, whose own has fixed addresses and no deadlines. A person's address is their primary one if
 * GitHub has verified it, else another verified one: an address that anybody may claim is none.
 */
export function githubProvider({ clientId, clientSecret, url, apiUrl }: GithubConfig): Github {
  const kept = github({ clientId, clientSecret });
  return {
    ...kept,
    async createAuthorizationURL(request) {
      const { pathname, search } = await kept.createAuthorizationURL(request);
      return new URL(`${trimmed(url)}${pathname}${search}`);
    },
    async validateAuthorizationCode({ code, codeVerifier, redirectURI }) {
      const body = new URLSearchParams({
        grant_type: "authorization_code",
        client_id: clientId,
        client_secret: clientSecret,
        code,
        redirect_uri: redirectURI,
        ...(codeVerifier === undefined ? {} : { code_verifier: codeVerifier }),
      });
      const answer = await ask(`${trimmed(url)}/login/oauth/access_token`, {
        method: "POST",
        body,
      });
      // Of a code that is not right GitHub says so with status 200.
      const token = tokenAnswer.safeParse(answer);
      return token.success
        ? {
            accessToken: token.data.access_token,
            tokenType: token.data.token_type,
            scopes: token.data.scope?.split(",") ?? [],
          }
        : null;
    },
    async getUserInfo({ accessToken }) {
      const headers = { authorization: `Bearer ${accessToken ?? ""}` };
      const profile = profileAnswer.safeParse(await ask(`${trimmed(apiUrl)}/user`, { headers }));
      const emails = emailsAnswer.safeParse(
        await ask(`${trimmed(apiUrl)}/user/emails`, { headers }),
      );
      if (!profile.success || !emails.success) {
        return null;
      }
      const verified = emails.data.filter((one) => one.verified);
      const email = (verified.find((one) => one.primary) ?? verified[0])?.email ?? null;
      const { name, login, avatar_url: image } = profile.data;
      return {
        user: {
          name: name || login,
          email,
          emailVerified: email !== null,
          ...(image ? { image } : {}),
        },
        data: profile.data as unknown as GithubProfile,
      };
    },
  };
}

/** The JSON of an answer; undefined when it is no success. A redirect is none: it could lead anywhere. */
async function ask(url: string, init: RequestInit): Promise<unknown> {
  const response = await fetch(url, {
    ...init,
    headers: { ...init.headers, accept: "application/json", "user-agent": "callora" },
    redirect: "error",
    signal: AbortSignal.timeout(timeoutMs),
  });
  if (!response.ok) {
    await response.body?.cancel();
    return undefined;
  }
  return response.json();
}

function trimmed(url: string): string {
  return url.replace(/\/+$/, "");
}
