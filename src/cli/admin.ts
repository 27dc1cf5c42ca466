import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { isatty } from "node:tty";
import { create } from "@bufbuild/protobuf";
import { createValidator } from "@bufbuild/protovalidate";
import {
  CreateUserRequestSchema,
  UserService,
} from "../../gen/callora/accounts/v1/user_service_pb.ts";
import { endCredentials } from "../accounts/ending.ts";
import { deleteSecondFactor, findLogin, upsertPassword } from "../accounts/login-store.ts";
import { createPasswordHasher } from "../accounts/password.ts";
import { lockPerson } from "../accounts/store.ts";
import { createUser } from "../accounts/users.ts";
import { createAnnouncer } from "../db/trust.ts";
import { platformAccountId } from "../ledger/store.ts";
import { newId } from "../lib/id.ts";
import { methodPolicy } from "../rpc/policy.ts";
import type { Role } from "../rpc/principal.ts";
import { writeSecretFile } from "../server.ts";
import { type Context, operator, UsageError } from "./context.ts";
import { withParts } from "./parts.ts";

/** Who is to be made. */
export interface NewAdmin {
  username: string;
  role: Role;
  email: string;
  /** Whether the password comes on standard input. Otherwise one is made. */
  passwordStdin: boolean;
}

/**
 * Make a person who may sign in. A password that is made is shown once on a terminal; where standard output is none,
 * and may be kept as a log, it goes to a file that only this user may read.
 */
export async function createAdmin(context: Context, options: NewAdmin): Promise<void> {
  const { config, print, now } = context;
  const { username, role, email, passwordStdin } = options;
  const given = passwordStdin ? (await text(process.stdin)).replace(/\r?\n$/, "") : undefined;
  const password = given ?? randomBytes(18).toString("base64url");
  checkRules({ username, email, password });
  await withParts(context, async ({ db }) => {
    const passwordHash = await createPasswordHasher().hash(password);
    const isShown = given === undefined && isatty(1);
    // Written first: a command that is cut off leaves a file, not a person whom nobody can be.
    const file =
      given === undefined && !isShown
        ? await writeSecretFile(passwordFile(config.dataDir, username, now()), password)
        : undefined;
    const { auditAction } = methodPolicy(UserService.method.createUser);
    const tenant = operator(platformAccountId, auditAction);
    const made = db.platformTransaction(tenant, async (tx, audit) => {
      const user = await createUser(tx, { username, email, passwordHash, role }, now());
      if (user === null) {
        throw new Error(`Cannot create "${username}": the name or the address is taken`);
      }
      audit.record(`user:${user.id}`);
      return user;
    });
    const user = await made.catch(async (error) => {
      if (file !== undefined) {
        await rm(file, { force: true });
      }
      throw error;
    });
    print(`Made the ${role} "${username}" (${user.id}, account ${user.account_id})`);
    if (file !== undefined) {
      print(`Its password is in ${file}`);
    } else if (isShown) {
      print(`Its password, shown this once: ${password}`);
    }
  });
}

/**
 * Give somebody a new password, end their sessions and API tokens, and take away their second factor if asked to. The
 * password is shown or kept as that of somebody new.
 */
export async function resetAdmin(
  context: Context,
  { username, dropSecondFactor }: { username: string; dropSecondFactor: boolean },
): Promise<void> {
  const { config, print, now } = context;
  const password = randomBytes(18).toString("base64url");
  await withParts(context, async ({ db }) => {
    const login = await db.systemTransaction((tx) => findLogin(tx, username));
    if (login === null) {
      throw new Error(`Cannot reset "${username}": nobody has that name`);
    }
    const passwordHash = await createPasswordHasher().hash(password);
    const file = isatty(1)
      ? undefined
      : await writeSecretFile(passwordFile(config.dataDir, login.username, now()), password);
    const tenant = operator(login.account_id, "user.password_reset");
    const announcer = createAnnouncer({ db, onError: (error) => print(String(error)) });
    const epoch = await db.platformTransaction(tenant, async (tx, audit) => {
      // First, as everybody does who changes both.
      await lockPerson(tx, { accountId: login.account_id, userId: login.id });
      await upsertPassword(tx, { id: newId("sim", now()), userId: login.id, passwordHash });
      const isDropped = dropSecondFactor && (await deleteSecondFactor(tx, login));
      audit.record(`user:${login.id}`, isDropped ? "second factor dropped" : "");
      return endCredentials(tx, announcer, { user: login, now: now() });
    });
    await announcer.settled(epoch);
    await announcer.close();
    print(`Reset the password of "${login.username}" (${login.id})`);
    print("Ended their sessions and API tokens");
    print(
      file === undefined ? `It is, shown this once: ${password}` : `The password is in ${file}`,
    );
  });
}

/** The rules are the contract's. */
function checkRules(user: { username: string; email: string; password: string }): void {
  const message = create(CreateUserRequestSchema, user);
  const result = createValidator().validate(CreateUserRequestSchema, message);
  const wrong = result.kind === "invalid" ? result.violations[0] : undefined;
  if (wrong !== undefined) {
    const field = wrong.field.map((part) => ("name" in part ? part.name : "")).join(".");
    throw new UsageError(`Cannot create "${user.username}": ${field} ${wrong.message}`);
  }
}

/** Another name for each attempt: one that fails must not remove the file of one that did not. */
function passwordFile(dataDir: string, username: string, now: Date): string {
  return join(dataDir, `password-${username}-${now.getTime()}`);
}
