import { expect } from "vitest";
import { must, startTestApp } from "./support/app.ts";
import type { GithubUser } from "./support/github.ts";
import { githubUser, test, throughGithub } from "./support/github-test.ts";
import {
  enableTotp,
  me,
  password,
  pathOf,
  sessionOf,
  signUp,
  verifySubject,
} from "./support/sign-in.ts";
import { asSuperuser } from "./support/superuser.ts";
import { mailedLink, visit } from "./support/visitor.ts";

test("GitHub signs in a new person, and the same one again", async ({ app, github }) => {
  const user = githubUser();
  github.be(user);
  const first = visit(app);
  const second = visit(app);

  const one = await throughGithub(first);
  const two = await throughGithub(second);

  expect(one.back.pathname).toBe("/api/auth/callback/github");
  expect([one.location, two.location]).toEqual(["/welcome", "/welcome"]);
  const [mine, again] = [await sessionOf(first), await sessionOf(second)] as {
    user: { id: string };
  }[];
  expect(mine).toMatchObject({
    user: { email: user.email, name: "Octo Cat", emailVerified: true },
  });
  expect(again?.user.id).toBe(mine?.user.id);
  expect((await first.get(me)).status).toBe(200);
});

test("GitHub is linked to a person only if both have proved the address", async ({
  app,
  github,
}) => {
  const { email: unproved } = await signUp(app);
  const { email: proved, userId } = await signUp(app);
  const link = await mailedLink(app, { to: proved, subject: verifySubject });
  await visit(app).get(pathOf(link));
  const arrive = async (change: Partial<GithubUser>) => {
    github.be(githubUser(change));
    const visitor = visit(app);
    const { location } = await throughGithub(visitor);
    return { location, session: await sessionOf(visitor) };
  };
  const emails = (email: string, verified: boolean) => [{ email, primary: true, verified }];

  const both = await arrive({ email: proved, emails: emails(proved, true) });
  const onlyGithub = await arrive({ email: unproved, emails: emails(unproved, true) });
  const onlyUs = await arrive({ id: 2, email: proved, emails: emails(proved, false) });

  expect(both).toMatchObject({ location: "/welcome", session: { user: { id: userId } } });
  expect(onlyGithub).toMatchObject({ location: "/oops?error=account_not_linked", session: null });
  expect(onlyUs.location).toMatch(/^\/oops\?error=email_not_found/);
  expect(onlyUs.session).toBeNull();
});

test("GitHub alone signs in nobody who has a second factor, linked before or not", async ({
  app,
  github,
}) => {
  const proved = async () => {
    const { email, visitor } = await signUp(app);
    await visit(app).get(pathOf(await mailedLink(app, { to: email, subject: verifySubject })));
    const user = githubUser({ email, emails: [{ email, primary: true, verified: true }] });
    return { visitor, user };
  };
  const arrive = async (user: GithubUser) => {
    github.be(user);
    const visitor = visit(app);
    const { location } = await throughGithub(visitor);
    return { location, session: await sessionOf(visitor) };
  };
  const [linked, unlinked] = [await proved(), await proved()];
  expect((await arrive(linked.user)).location).toBe("/welcome");
  await enableTotp(linked.visitor);
  await enableTotp(unlinked.visitor);

  const refused = [await arrive(linked.user), await arrive(unlinked.user)];

  for (const { location, session } of refused) {
    expect(location).toMatch(/^\/oops\?error=SECOND_FACTOR_REQUIRED/);
    expect(session).toBeNull();
  }
  await unlinked.visitor.post("/api/auth/two-factor/disable", { password });
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select 1 from sign_in_methods where provider_account_id = $1", [
      String(unlinked.user.id),
    ]),
  );
  expect(rows).toEqual([]);
});

test.for([
  {
    what: "another state",
    tamper: (url: URL) => {
      url.searchParams.set("state", "x".repeat(32));
      return url;
    },
  },
  {
    what: "another code",
    tamper: (url: URL) => {
      url.searchParams.set("code", "nonsense");
      return url;
    },
  },
])("coming back from GitHub with $what signs nobody in", async ({ tamper }, { app, github }) => {
  github.be(githubUser());
  const visitor = visit(app);

  const { location } = await throughGithub(visitor, { tamper });

  expect(location).toContain("error=");
  expect(await sessionOf(visitor)).toBeNull();
});

test("another browser cannot finish a sign-in at GitHub", async ({ app, github }) => {
  github.be(githubUser());
  const begun = await visit(app).post("/api/auth/sign-in/social", { provider: "github" });
  const authorized = await fetch((begun.body as { url: string }).url, { redirect: "manual" });
  const back = new URL(must(authorized.headers.get("location")));
  const victim = visit(app);

  await victim.get(back.pathname + back.search, { "sec-fetch-site": "cross-site" });

  expect(await sessionOf(victim)).toBeNull();
});

test("without an app of GitHub nobody signs in there", async () => {
  await using app = await startTestApp();

  const answer = await visit(app).post("/api/auth/sign-in/social", { provider: "github" });

  expect(answer).toMatchObject({ status: 404, body: { code: "PROVIDER_NOT_FOUND" } });
});
