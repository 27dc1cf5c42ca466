import { randomInt, randomUUID } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { until } from "./app.ts";

/** What a reply was. */
export interface Answer {
  status: number;
  headers: Headers;
  /** Parsed if it is JSON, else text. */
  body: unknown;
}

/** A browser on a page of the server: keeps cookies, and says where its requests come from. */
export interface Visitor {
  /** The cookies that it has, by name. */
  cookies: Map<string, string>;
  get(path: string, headers?: Record<string, string>): Promise<Answer>;
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Answer>;
}

/**
 * A visitor at an address of its own, of which the server must hear from a proxy that it trusts: sign-ins are limited
 * by address.
 */
export function visit(app: { url: string }): Visitor {
  const cookies = new Map<string, string>();
  const ip = Array.from({ length: 4 }, () => randomInt(1, 224)).join(".");
  async function send(path: string, init: RequestInit): Promise<Answer> {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const response = await fetch(new URL(path, app.url), {
      ...init,
      redirect: "manual",
      headers: {
        ...(cookie === "" ? {} : { cookie }),
        "x-forwarded-for": ip,
        ...(init.headers as Record<string, string>),
      },
    });
    for (const line of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(line) ?? [];
      if (/max-age=0/i.test(line)) {
        cookies.delete(name);
      } else {
        cookies.set(name, value);
      }
    }
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.includes("json");
    return {
      status: response.status,
      headers: response.headers,
      body: isJson && text !== "" ? JSON.parse(text) : text,
    };
  }
  return {
    cookies,
    get: (path, headers = { "sec-fetch-site": "same-origin" }) =>
      send(path, { method: "GET", headers }),
    post: (path, body, headers = {}) =>
      send(path, {
        method: "POST",
        body: typeof body === "string" ? body : JSON.stringify(body),
        headers: { "content-type": "application/json", origin: app.url, ...headers },
      }),
  };
}

/** A mail address that nobody has. */
export const newEmail = () => `${randomUUID()}@mail.test`;

/** The link in the last mail to an address, as soon as there is one with that subject. */
export async function mailedLink(
  { directory }: { directory: string },
  { to, subject }: { to: string; subject: string },
): Promise<string> {
  const outbox = join(directory, "outbox");
  let link: string | undefined;
  await until(async () => {
    const names = await readdir(outbox).catch(() => []);
    for (const name of names.filter((one) => one.endsWith(".txt")).sort()) {
      const text = await readFile(join(outbox, name), "utf8");
      if (text.startsWith(`To: ${to}\nSubject: ${subject}\n`)) {
        link = /https?:\/\/\S+/.exec(text)?.[0];
      }
    }
    return link !== undefined;
  });
  return link ?? "";
}
