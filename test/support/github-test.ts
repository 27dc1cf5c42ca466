import { randomInt } from "node:crypto";
import { test as base, expect } from "vitest";
import { must, startTestApp } from "./app.ts";
import { type GithubUser, startGithub } from "./github.ts";
import { newEmail, type Visitor } from "./visitor.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Github = Awaited<ReturnType<typeof startGithub>>;

const githubApp = { clientId: "an-app", clientSecret: "the-secret-of-the-app" };

/** A test with a server that signs in with a GitHub of its own. */
export const test = base.extend<{ $file: { github: Github; app: App } }>({
  github: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using github = await startGithub(githubApp);
      await use(github);
    },
    { scope: "file" },
  ],
  app: [
    async ({ github }, use) => {
      const env = {
        TRUSTED_PROXIES: "127.0.0.1",
        GITHUB_CLIENT_ID: githubApp.clientId,
        GITHUB_CLIENT_SECRET: githubApp.clientSecret,
        GITHUB_URL: github.url,
        GITHUB_API_URL: github.apiUrl,
      };
      await using app = await startTestApp(env);
      await use(app);
    },
    { scope: "file" },
  ],
});

export function githubUser(change: Partial<GithubUser> = {}): GithubUser {
  const email = newEmail();
  const emails = [{ email, primary: true, verified: true }];
  return { id: randomInt(1, 2 ** 31), login: "octo", name: "Octo Cat", email, emails, ...change };
}

/** Go to GitHub and back, as a browser does. Returns where the browser is led in the end. */
export async function throughGithub(visitor: Visitor, { tamper = (url: URL) => url } = {}) {
  const begun = await visitor.post("/api/auth/sign-in/social", {
    provider: "github",
    callbackURL: "/welcome",
    errorCallbackURL: "/oops",
  });
  expect(begun).toMatchObject({ status: 200, body: { redirect: true } });
  const { url } = begun.body as { url: string };
  const authorized = await fetch(url, { redirect: "manual" });
  const back = tamper(new URL(must(authorized.headers.get("location"))));
  const arrived = await visitor.get(back.pathname + back.search, {
    "sec-fetch-site": "cross-site",
  });
  return { back, location: must(arrived.headers.get("location")) };
}
