/** What a column takes, or the charges of a whole batch: an entry beyond it would stop the shard. Lengths are those of strings. */
export const entryLimits = {
  accountId: /^acc_[0-9a-v]{26}$/,
  apiId: /^api_[0-9a-v]{26}$/,
  correctionId: /^cor_[0-9a-v]{26}$/,
  /** 200 characters of Unicode, of which each may be two of a string's. */
  nameMax: 400,
  endpointMax: 400,
  dataMax: 16_384,
  idMax: 64,
  requestIdMax: 200,
  reasonMax: 1_000,
  ruleMax: 4_096,
  statusMax: 999,
  feeBasisPointsMax: 10_000,
  /** A whole batch of the largest still fits into an int8. */
  nanosMax: 999_999_999_999_999n,
  unitsMax: 1_000_000_000_000n,
  /** Up to the year 3000. */
  timeMicrosMax: 32_503_680_000_000_000n,
} as const;
