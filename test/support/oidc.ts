import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from "jose";

type Algorithm = "RS256" | "ES256" | "EdDSA";

/** An OpenID provider on this machine: discovery, keys that rotate, and outages. Gone at the end of the scope. */
export async function startIssuer() {
  const keys = new Map<string, { alg: Algorithm; privateKey: CryptoKey; jwk: object }>();
  const requests: string[] = [];
  let isAway = false;
  let issuer = "";

  const server = createServer((request, response) => {
    const path = request.url ?? "";
    requests.push(path);
    if (isAway) {
      response.destroy();
      return;
    }
    const documents: Readonly<Record<string, () => object>> = {
      "/.well-known/openid-configuration": () => ({ issuer, jwks_uri: `${issuer}/keys` }),
      "/keys": () => ({ keys: [...keys.values()].map(({ jwk }) => jwk) }),
      "/.well-known/jwks.json": () => ({ keys: [...keys.values()].map(({ jwk }) => jwk) }),
    };
    const document = documents[path];
    response.statusCode = document === undefined ? 404 : 200;
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(document?.() ?? {}));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  const provider = {
    issuer,
    /** The paths that were asked for so far. */
    requests,
    /** Publish another key. */
    async addKey(kid: string, alg: Algorithm = "RS256") {
      const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
      const jwk = { ...(await exportJWK(publicKey)), kid, alg, use: "sig" };
      keys.set(kid, { alg, privateKey, jwk });
      return publicKey;
    },
    /** Publish a key no longer. */
    removeKey(kid: string) {
      keys.delete(kid);
    },
    /** Answer nobody, or again. */
    setAway(value: boolean) {
      isAway = value;
    },
    /** A token, signed with a published key. */
    token(kid: string, claims: JWTPayload): Promise<string> {
      const key = keys.get(kid);
      if (key === undefined) {
        throw new Error(`no key ${kid}`);
      }
      const now = Math.floor(Date.now() / 1000);
      return new SignJWT({ iss: issuer, iat: now, exp: now + 300, ...claims })
        .setProtectedHeader({ alg: key.alg, kid })
        .sign(key.privateKey);
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return provider;
}
