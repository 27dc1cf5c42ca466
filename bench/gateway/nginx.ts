import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { waitUntil } from "../../src/db/embedded-process.ts";
import { freePort } from "../free-port.ts";
import type { Served } from "./servers.ts";

const execute = promisify(execFile);

/** What the upstream answers to a short call. */
export const shortAnswer = '{"id":"itm_1","name":"An item","price":"0.001","currency":"USDC"}';
/** Bytes of the file that it sends to a long one. */
export const longBytes = 10_000_000;

// Debian puts it where only root looks.
const binary = "/usr/sbin/nginx";

/** Throws, naming what to install, unless there is nginx. */
export async function checkNginx(): Promise<void> {
  await execute(binary, ["-v"]).catch(() => {
    const why = "nginx is missing, install Debian's nginx-light";
    throw new Error(`Cannot measure the gateway: ${why}`);
  });
}

/** What the gateway calls: one process of nginx with an answer in its memory, and a long file. */
export async function startUpstream(directory: string): Promise<Served> {
  const home = join(directory, "upstream");
  await mkdir(home);
  const file = join(home, "long");
  await writeFile(file, "");
  await truncate(file, longBytes);
  const locations = `
    location / { default_type application/json; return 200 '${shortAnswer}'; }
    location /long { root ${home}; default_type application/octet-stream; }`;
  return startNginx({ home, locations });
}

/** A proxy that does nothing else: one process of nginx. */
export async function startNginxProxy(directory: string, upstream: string): Promise<Served> {
  const home = join(directory, "proxy");
  await mkdir(home);
  const locations = `
    location / {
      proxy_pass http://upstream;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }`;
  const group = `
    upstream upstream {
      server ${new URL(upstream).host};
      keepalive 64;
      keepalive_requests 1000000000;
    }`;
  return startNginx({ home, locations, group });
}

interface Setting {
  home: string;
  locations: string;
  group?: string;
}

async function startNginx({ home, locations, group = "" }: Setting): Promise<Served> {
  // Its workers are not root.
  await chmod(home, 0o755);
  const port = await freePort();
  const config = join(home, "nginx.conf");
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (name) => `${name}_temp_path ${home}/${name};`,
  );
  await writeFile(
    config,
    `daemon off;
worker_processes 1;
pid ${home}/pid;
error_log stderr crit;
events { worker_connections 8192; }
http {
  access_log off;
  sendfile on;
  keepalive_requests 1000000000;
  ${temporary.join("\n  ")}
  ${group}
  server { listen 127.0.0.1:${port} backlog=4096; ${locations} }
}
`,
  );
  const child = spawn(binary, ["-p", home, "-c", config], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const url = `http://127.0.0.1:${port}`;
  const answers = () => fetch(url, { method: "HEAD" }).then(Boolean, () => false);
  await waitUntil(async () => child.exitCode !== null || (await answers()), 5_000);
  if (child.exitCode !== null || child.pid === undefined) {
    throw new Error(`Cannot measure the gateway: nginx has ended\n${said}`);
  }
  return {
    url,
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill("SIGTERM");
        await once(child, "exit");
      }
    },
  };
}
