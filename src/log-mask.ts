const mask = "[masked]";

const tellingName =
  /(?:password|passwd|secret|token|api[-_]?key|private[-_]?key|session|signature)/;
const named = new RegExp(
  `([\\w.-]{0,64}${tellingName.source}[\\w.-]{0,64}["']?\\s{0,8}[:=]\\s{0,8}["']?)[^\\s"',;&}]+`,
  "gi",
);

/** What looks like a secret, and what is left of it. In order: the wide ones first. */
const patterns: readonly (readonly [RegExp, string])[] = [
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*-----|$)/g, mask],
  // Headers: all of the line, since a cookie or a credential may hold spaces.
  [/((?:proxy-)?authorization|(?:set-)?cookie)(["']?\s*[:=]\s*)[^\r\n]+/gi, `$1$2${mask}`],
  [/(bearer|basic)(?:\s|%20|\+)+[^\s"',;]+/gi, `$1 ${mask}`],
  // user:password@ of any URL, up to the last @: a password may hold a slash or an @ of its own.
  [/:\\?\/\\?\/[^\s]{1,1024}@/g, `://${mask}@`],
  // The values of a query. Which of them are secret is not ours to guess.
  [/([?&][\w.[\]%-]{1,64}=)[^\s&#"'<>]+/g, `$1${mask}`],
  // JSON Web Tokens, ours and others', and any cut end of one.
  [/eyJ[\w-]{8,}(?:\.[\w-]*){0,4}/g, mask],
  // Callora's keys and tokens.
  [/(ck_live_|ck_test_)\w{4,}/gi, `$1${mask}`],
  [/(ora_|svc_|civ_|ef_|whsec_)[\w-]{16,}/g, `$1${mask}`],
  // Providers' keys.
  [/((?:sk|pk|rk|rzp)_(?:live|test)_)\w+/g, `$1${mask}`],
  [/(?:\b|(?<=\\[nrt]))(sk|xox[a-z]|gh[a-z]|SG|AKIA|AIza)([-_.]?)[\w.-]{16,}/g, `$1$2${mask}`],
  // Stellar secret keys.
  [/S[A-Z2-7]{55}/g, mask],
  // 32 bytes in base64.
  [/[A-Za-z0-9+/]{43}=/g, mask],
  // name=value and "name": "value", where the name tells.
  [named, `$1${mask}`],
];

/**
 * The longest text that is looked through. What is longer is cut at a space, so that no part of a
 * secret is left.
 */
const inputLengthMax = 16_384;

/** The text without anything that looks like a secret. Rather masks too much. */
export function maskSecrets(text: string): string {
  let masked = cut(text, inputLengthMax);
  for (const [pattern, replacement] of patterns) {
    masked = masked.replace(pattern, replacement);
  }
  return masked;
}

/** The beginning of the text, up to a space. */
export function cut(text: string, lengthMax: number): string {
  if (text.length <= lengthMax) {
    return text;
  }
  const space = text.lastIndexOf(" ", lengthMax);
  return `${text.slice(0, Math.max(space, 0))} [cut]`;
}
