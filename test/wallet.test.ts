import { randomBytes } from "node:crypto";
import {
  Account,
  Keypair,
  Operation,
  Transaction,
  TransactionBuilder,
  WebAuth,
} from "@stellar/stellar-sdk";
import { expect } from "vitest";
import { createWalletAuth, deriveSigningSecret } from "../src/accounts/wallet.ts";
import { must, startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { secretKey } from "./support/secret.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test as base } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** Sign-in takes few calls from an address: here each call comes from one of its own. */
const test = base.extend<{ $file: { walletApp: App } }>({
  walletApp: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using app = await startTestApp({ TRUSTED_PROXIES: "127.0.0.1" });
      await use(app);
    },
    { scope: "file" },
  ],
});

const serverKey = Keypair.fromSecret(deriveSigningSecret(secretKey)).publicKey();
let calls = 0;

async function call(app: App, path: string, body?: object) {
  calls += 1;
  const response = await fetch(app.url + path, {
    method: body === undefined ? "GET" : "POST",
    headers: {
      "content-type": "application/json",
      "x-forwarded-for": `10.0.${calls >> 8}.${calls & 255}`,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: await response.json() };
}

/** A challenge, read as SEP-10 tells wallets to read it. */
async function challenge(app: App, account: string, path = "/auth"): Promise<Transaction> {
  const { body } = await call(app, `${path}?account=${account}`);
  expect(body.network_passphrase).toBe(app.network.passphrase);
  const { tx, clientAccountID } = WebAuth.readChallengeTx(
    body.transaction,
    serverKey,
    body.network_passphrase,
    "localhost",
    "localhost",
  );
  expect(clientAccountID).toBe(account);
  return tx;
}

const toXdr = (tx: Transaction): string => tx.toXdr();

async function signedBy(app: App, account: string, ...signers: Keypair[]): Promise<string> {
  const tx = await challenge(app, account);
  tx.sign(...signers);
  return toXdr(tx);
}

/** What the server would have made half an hour ago. */
function agedChallenge(server: Keypair, account: string, passphrase: string): Transaction {
  const madeAt = Math.floor(Date.now() / 1000) - 1_800;
  const value = randomBytes(48).toString("base64");
  return new TransactionBuilder(new Account(server.publicKey(), "-1"), {
    fee: "100",
    networkPassphrase: passphrase,
    timebounds: { minTime: madeAt, maxTime: madeAt + 300 },
  })
    .addOperation(Operation.manageData({ name: "localhost auth", value, source: account }))
    .addOperation(
      Operation.manageData({
        name: "web_auth_domain",
        value: "localhost",
        source: server.publicKey(),
      }),
    )
    .build();
}

const login = (app: App, transaction: string) => call(app, "/auth", { transaction });

function me(app: App, token: string) {
  return fetch(`${app.url}/api/v1/auth/me`, { headers: { authorization: `Bearer ${token}` } });
}

test("a wallet that is new here becomes a person, and the same one every time", async ({
  walletApp: app,
}) => {
  const wallet = Keypair.random();
  const ids: string[] = [];
  for (const path of ["/auth", "/api/v1/auth/stellar"]) {
    const tx = await challenge(app, wallet.publicKey(), path);
    tx.sign(wallet);
    const { status, body } = await call(app, path, { transaction: toXdr(tx) });
    expect([status, body.token_type, body.expires_in]).toEqual([200, "bearer", 900]);
    const response = await me(app, body.token);
    ids.push((await response.json()).id);
  }

  expect(ids[0]).toMatch(/^usr_/);
  expect(ids[1]).toBe(ids[0]);
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select method from sessions where user_id = $1", [ids[0]]),
  );
  expect(rows).toEqual([{ method: "wallet" }, { method: "wallet" }]);
});

test("a challenge is good for one sign-in, even when it is answered many times at once", async ({
  walletApp: app,
}) => {
  const wallet = Keypair.random();
  const transaction = await signedBy(app, wallet.publicKey(), wallet);

  const answers = await Promise.all(Array.from({ length: 10 }, () => login(app, transaction)));

  expect(answers.map(({ status }) => status).toSorted()).toEqual([200, ...Array(9).fill(401)]);
  expect(JSON.stringify(answers.find(({ status }) => status === 401)?.body)).toContain(
    "CHALLENGE_INVALID",
  );
});

test("a challenge that is not signed as it must be signs nobody in", async ({ walletApp: app }) => {
  const [wallet, other, forger] = [Keypair.random(), Keypair.random(), Keypair.random()];
  const account = wallet.publicKey();
  const { passphrase } = app.network;
  const forged = (homeDomain: string, network: string, signer = forger) => {
    const xdr = WebAuth.buildChallengeTx(signer, account, homeDomain, 300, network, homeDomain);
    const tx = new Transaction(xdr, network);
    tx.sign(wallet);
    return toXdr(tx);
  };
  const server = Keypair.fromSecret(deriveSigningSecret(secretKey));
  const oldTx = agedChallenge(server, account, passphrase);
  oldTx.sign(server, wallet);
  const attempts = {
    "nobody's signature": await signedBy(app, account),
    "another's signature": await signedBy(app, account, other),
    "another's besides": await signedBy(app, account, wallet, other),
    "another server's challenge": forged("localhost", passphrase),
    "another domain": forged("evil.example", passphrase, server),
    "another network": forged("localhost", "Test SDF Network ; September 2015", server),
    "an old challenge": toXdr(oldTx),
    "no transaction": "AAAA",
  };

  for (const [what, transaction] of Object.entries(attempts)) {
    expect([what, (await login(app, transaction)).status]).toEqual([what, 401]);
  }
});

test("an account with several keys needs as many of them as it says", async ({
  walletApp: app,
}) => {
  const [master, second, third] = [Keypair.random(), Keypair.random(), Keypair.random()];
  const account = master.publicKey();
  const { horizon, passphrase } = app.network;
  await horizon.fund(account);
  const { sequence } = must(await horizon.findAccount(account));
  const key = (pair: Keypair, weight: number) =>
    Operation.setOptions({ signer: { ed25519PublicKey: pair.publicKey(), weight } });
  const tx = new TransactionBuilder(new Account(account, sequence.toString()), {
    fee: "10000",
    networkPassphrase: passphrase,
  })
    .addOperation(key(second, 1))
    .addOperation(key(third, 1))
    .addOperation(
      Operation.setOptions({ masterWeight: 0, lowThreshold: 1, medThreshold: 2, highThreshold: 2 }),
    )
    .setTimeout(0)
    .build();
  tx.sign(master);
  expect(await horizon.submit(tx.toXdr())).toMatchObject({ kind: "applied" });

  const outcomes = {
    "the master key alone": await login(app, await signedBy(app, account, master)),
    "one key": await login(app, await signedBy(app, account, second)),
    "one key, and the master key": await login(app, await signedBy(app, account, second, master)),
    "both keys": await login(app, await signedBy(app, account, second, third)),
  };

  expect(Object.values(outcomes).map(({ status }) => status)).toEqual([401, 401, 401, 200]);
});

test("a key without weight is no key, whatever the threshold", async ({ walletApp: app }) => {
  const [master, second] = [Keypair.random(), Keypair.random()];
  const account = master.publicKey();
  const horizon = {
    ...app.network.horizon,
    findAccount: async () => ({
      sequence: 1n,
      balances: [],
      signers: [
        { key: account, weight: 0 },
        { key: second.publicKey(), weight: 1 },
      ],
      mediumThreshold: 0,
    }),
  };
  const { passphrase } = app.network;
  const wallet = createWalletAuth({
    network: { passphrase, horizon },
    signingSecret: deriveSigningSecret(secretKey),
    homeDomain: "localhost",
  });
  const verify = async (signer: Keypair) => {
    const tx = new Transaction(await wallet.challenge(account), passphrase);
    tx.sign(signer);
    return wallet.verify(toXdr(tx));
  };

  expect(await verify(master)).toBeNull();
  expect(await verify(second)).toMatchObject({ account });
});

test("a deactivated person does not come back by wallet", async ({ walletApp: app }) => {
  const wallet = Keypair.random();
  const { body } = await login(app, await signedBy(app, wallet.publicKey(), wallet));
  const { id } = await (await me(app, body.token)).json();
  const admin = await newPerson(app.db, "admin");
  await fetch(`${app.url}/api/v1/users/${id}`, {
    method: "DELETE",
    headers: { authorization: `Bearer ${admin.token}` },
  });

  expect((await me(app, body.token)).status).toBe(401);
  expect((await login(app, await signedBy(app, wallet.publicKey(), wallet))).status).toBe(401);
});

test.for([
  { what: "a muxed account", query: `account=M${"A".repeat(68)}` },
  { what: "no account", query: "" },
  {
    what: "another domain",
    query: `account=${Keypair.random().publicKey()}&home_domain=evil.example`,
  },
])("there is no challenge for $what", async ({ query }, { walletApp: app }) => {
  expect((await call(app, `/auth?${query}`)).status).toBe(400);
});
