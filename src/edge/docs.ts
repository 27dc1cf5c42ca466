import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

/** An OpenAPI 3.1 document, as far as this module looks into it. */
export interface OpenapiDocument {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, PathItem>>;
  readonly [key: string]: unknown;
}

/** What one path of a document holds, by lower-case HTTP method. */
export type PathItem = Readonly<Record<string, unknown>>;

/** One GET route that always answers the same. */
export interface DocsRoute {
  readonly method: "GET";
  readonly path: string;
  /** Answers 304 without a body if the client holds the current version already. */
  respond(request?: { readonly ifNoneMatch?: string | undefined }): DocsReply;
}

/** A whole reply. Header names are lower-case. */
export interface DocsReply {
  readonly status: 200 | 304;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/**
 * The routes of the API reference: the document, the page that shows it under two paths, and the
 * page's assets. The page reaches no other host and sends no cookies.
 */
export function docsRoutes({ openapi }: { readonly openapi: OpenapiDocument }): DocsRoute[] {
  const json = once(() => Buffer.from(JSON.stringify(openapi)));
  const page = once(() => Buffer.from(pageHtml));
  return [
    ...["/openapi.json", "/api/v1/openapi.json"].map((path) =>
      toRoute(path, "application/json", json),
    ),
    ...["/docs", "/redoc"].map((path) =>
      toRoute(path, "text/html; charset=utf-8", page, pageHeaders),
    ),
    toRoute(
      `${assetsPath}/start.js`,
      scriptType,
      once(() => Buffer.from(startScript)),
    ),
    ...Object.entries(assetTypes).map(([name, type]) =>
      toRoute(
        `${assetsPath}/${name}`,
        type,
        once(() => readAsset(name)),
      ),
    ),
  ];
}

/**
 * Add the paths of plain HTTP routes to a document. Throws if it describes one of the operations
 * already, or has another of the same operationId.
 */
export function addPaths(
  document: OpenapiDocument,
  extra: Readonly<Record<string, PathItem>>,
): OpenapiDocument {
  const paths: Record<string, PathItem> = { ...document.paths };
  for (const [path, item] of Object.entries(extra)) {
    const known = paths[path] ?? {};
    const twice = Object.keys(item).find((key) => key in known);
    if (twice !== undefined) {
      throw new Error(`Cannot describe ${twice.toUpperCase()} ${path}: it is described already`);
    }
    paths[path] = { ...known, ...item };
  }
  checkOperationIds(paths);
  const sorted = Object.entries(paths).sort(([a], [b]) => (a < b ? -1 : 1));
  return { ...document, paths: Object.fromEntries(sorted) };
}

function checkOperationIds(paths: Readonly<Record<string, PathItem>>): void {
  const seen = new Set<unknown>();
  for (const operation of Object.values(paths).flatMap((item) => Object.values(item))) {
    const { operationId } = (operation ?? {}) as { operationId?: unknown };
    if (operationId !== undefined && seen.has(operationId)) {
      throw new Error(`Cannot describe the API: operationId "${operationId}" stands twice`);
    }
    seen.add(operationId);
  }
}

const assetsPath = "/docs/assets";
const scriptType = "text/javascript; charset=utf-8";

// The only files of the package that are served.
const assetTypes: Readonly<Record<string, string>> = {
  "swagger-ui.css": "text/css; charset=utf-8",
  "swagger-ui-bundle.js": scriptType,
  "favicon-16x16.png": "image/png",
  "favicon-32x32.png": "image/png",
};

function readAsset(name: string): Buffer {
  return readFileSync(createRequire(import.meta.url).resolve(`swagger-ui-dist/${name}`));
}

// Swagger UI sets style attributes, and its style sheet holds images.
const pageHeaders = {
  "content-security-policy": [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; "),
  "cross-origin-opener-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-frame-options": "DENY",
};

const pageHtml = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Callora API</title>
    <link rel="stylesheet" href="${assetsPath}/swagger-ui.css">
    <link rel="icon" type="image/png" sizes="32x32" href="${assetsPath}/favicon-32x32.png">
    <link rel="icon" type="image/png" sizes="16x16" href="${assetsPath}/favicon-16x16.png">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <noscript>The API is described in <a href="/openapi.json">/openapi.json</a>.</noscript>
    <script src="${assetsPath}/swagger-ui-bundle.js"></script>
    <script src="${assetsPath}/start.js"></script>
  </body>
</html>
`;

// Without the interceptor the browser adds the cookies of this origin to every call.
const startScript = `SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  validatorUrl: null,
  queryConfigEnabled: false,
  persistAuthorization: false,
  withCredentials: false,
  requestInterceptor: (request) => {
    request.credentials = "omit";
    return request;
  },
});
`;

function toRoute(
  path: string,
  contentType: string,
  read: () => Buffer,
  extraHeaders: Readonly<Record<string, string>> = {},
): DocsRoute {
  const load = once(() => {
    const body = read();
    const etag = `"${createHash("sha256").update(body).digest("base64url")}"`;
    const headers = {
      "content-type": contentType,
      "cache-control": "no-cache",
      etag,
      "x-content-type-options": "nosniff",
      ...extraHeaders,
    };
    return { etag, reply: { status: 200, headers, body } as const };
  });
  return {
    method: "GET",
    path,
    respond({ ifNoneMatch } = {}) {
      const { etag, reply } = load();
      return ifNoneMatch !== undefined && isHeld(ifNoneMatch, etag)
        ? { status: 304, headers: reply.headers, body: Buffer.alloc(0) }
        : reply;
    },
  };
}

function isHeld(ifNoneMatch: string, etag: string): boolean {
  const tags = ifNoneMatch.split(",").map((tag) => tag.trim().replace(/^W\//, ""));
  return tags.includes(etag) || tags.includes("*");
}

function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
