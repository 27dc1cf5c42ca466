import type { Client } from "pg";

/** The passwords of the three roles that Callora connects as. */
export interface RolePasswords {
  owner: string;
  app: string;
  worker: string;
}

/**
 * Make the roles callora_owner, callora_app and callora_worker, or set them right. A role cannot
 * carry privileges that would lift row-level security. `client` is a superuser's.
 */
export async function ensureRoles(client: Client, passwords: RolePasswords): Promise<void> {
  const found = await client.query("select rolname from pg_roles where rolname like 'callora%'");
  const names = new Set(found.rows.map((row) => row.rolname));
  const attributes = "login nosuperuser nobypassrls nocreatedb nocreaterole noreplication";
  const statements = Object.entries({
    callora_owner: passwords.owner,
    callora_app: passwords.app,
    callora_worker: passwords.worker,
  }).map(([role, password]) => {
    const verb = names.has(role) ? "alter" : "create";
    return `${verb} role ${role} with ${attributes} password ${client.escapeLiteral(password)}`;
  });
  // One message is one transaction: one wait for the disk.
  await client.query(statements.join("; "));
}

/** Make a database that callora_owner owns and only the three roles may enter, if it is missing. */
export async function ensureDatabase(client: Client, database: string): Promise<void> {
  const name = client.escapeIdentifier(database);
  const found = await client.query("select from pg_database where datname = $1", [database]);
  if (found.rowCount === 0) await client.query(`create database ${name} owner callora_owner`);
  await client.query(
    `revoke all on database ${name} from public; ` +
      `grant connect, temporary on database ${name} to callora_app, callora_worker`,
  );
}

/** The connection string of a role. */
export function roleUrl(options: {
  role: string;
  password: string;
  host: string;
  database: string;
}): string {
  const { role, password, host, database } = options;
  return `postgres://${role}:${encodeURIComponent(password)}@${host}/${database}`;
}
