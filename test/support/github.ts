import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";

/** Who signs in at GitHub. */
export interface GithubUser {
  id: number;
  login: string;
  name: string | null;
  /** What the profile shows. May be an address that was never verified. */
  email: string | null;
  emails: { email: string; primary: boolean; verified: boolean }[];
}

interface Grant {
  redirectUri: string;
  challenge: string;
  user: GithubUser;
}

/**
 * A stand-in for GitHub that speaks its OAuth protocol: authorize (with PKCE), token, user and emails. Whoever comes
 * to authorize is `user`, and agrees.
 */
export async function startGithub(app: { clientId: string; clientSecret: string }) {
  const codes = new Map<string, Grant>();
  const tokens = new Map<string, GithubUser>();
  const state: { user: GithubUser | undefined } = { user: undefined };

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://github.test");
    const bearer = tokens.get((request.headers.authorization ?? "").replace(/^Bearer /, ""));
    if (pathname === "/login/oauth/authorize" && state.user !== undefined) {
      authorize(searchParams, state.user, response);
    } else if (pathname === "/login/oauth/access_token" && request.method === "POST") {
      send(response, 200, exchange(new URLSearchParams(await text(request))));
    } else if (pathname === "/api/user" && bearer !== undefined) {
      const { emails: _, ...profile } = bearer;
      send(response, 200, profile);
    } else if (pathname === "/api/user/emails" && bearer !== undefined) {
      send(response, 200, bearer.emails);
    } else {
      send(response, bearer === undefined ? 401 : 404, { message: "no" });
    }
  }

  function authorize(query: URLSearchParams, user: GithubUser, response: ServerResponse): void {
    const redirectUri = query.get("redirect_uri") ?? "";
    const isRight =
      query.get("client_id") === app.clientId &&
      query.get("response_type") === "code" &&
      query.get("code_challenge_method") === "S256" &&
      (query.get("scope") ?? "").split(" ").includes("user:email");
    if (!isRight) {
      send(response, 404, { message: "no such app" });
      return;
    }
    const code = randomBytes(10).toString("hex");
    codes.set(code, { redirectUri, challenge: query.get("code_challenge") ?? "", user });
    const back = new URL(redirectUri);
    back.searchParams.set("code", code);
    back.searchParams.set("state", query.get("state") ?? "");
    response.writeHead(302, { location: back.href }).end();
  }

  function exchange(form: URLSearchParams): unknown {
    const code = form.get("code") ?? "";
    const grant = codes.get(code);
    // A code is good for one attempt.
    codes.delete(code);
    const verifier = form.get("code_verifier") ?? "";
    const isRight =
      grant !== undefined &&
      form.get("client_id") === app.clientId &&
      form.get("client_secret") === app.clientSecret &&
      form.get("redirect_uri") === grant.redirectUri &&
      createHash("sha256").update(verifier).digest("base64url") === grant.challenge;
    if (!isRight) {
      return { error: "bad_verification_code" };
    }
    const token = `gho_${randomBytes(18).toString("hex")}`;
    tokens.set(token, grant.user);
    return { access_token: token, token_type: "bearer", scope: "read:user,user:email" };
  }

  const server = createServer((request, response) => {
    serve(request, response).catch(() => response.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  return {
    url,
    apiUrl: `${url}/api`,
    /** Tokens that it gave out. */
    tokens,
    /** Who comes to authorize from now on. */
    be(user: GithubUser): void {
      state.user = user;
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}
