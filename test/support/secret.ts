/** The secret of every server in tests. */
export const secretKey = "a secret key of a test, long enough";
