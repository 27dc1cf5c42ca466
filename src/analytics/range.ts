const datePattern = /^\d{4}-\d{2}-\d{2}$/;
const timePattern =
  /^\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})$/;
const dayMs = 24 * 60 * 60 * 1000;

/** The longest range that one question may cover. */
export const rangeDaysMax = 400;

/** What the database can compare with, and a range can end after. */
const firstYear = 1970;
const lastYear = 9998;

/** A time range: from is inside, to is not. */
export interface Range {
  from: Date;
  to: Date;
}

/** The start that an ISO date or an RFC 3339 time stands for. Null when it is neither, or no such day. */
export function parseStart(text: string): Date | null {
  const isDate = datePattern.test(text);
  if (!isDate && !timePattern.test(text)) {
    return null;
  }
  const dayText = text.slice(0, 10);
  const day = new Date(`${dayText}T00:00:00Z`);
  // JavaScript takes 30 February for 2 March.
  if (!isValid(day) || !day.toISOString().startsWith(dayText)) {
    return null;
  }
  const date = isDate ? day : new Date(text);
  return isValid(date) ? date : null;
}

/** The end that a text stands for, exclusive: a date covers its whole day, a time its own millisecond. */
export function parseEnd(text: string): Date | null {
  const start = parseStart(text);
  if (start === null) {
    return null;
  }
  return new Date(start.getTime() + (datePattern.test(text) ? dayMs : 1));
}

/** Why a range cannot be asked for. Null when it can. */
export function rangeProblem({ from, to }: Range): string | null {
  if (from >= to) {
    return "must be before or equal to `to`";
  }
  if (from.getUTCFullYear() < firstYear || to.getUTCFullYear() > lastYear) {
    return `must be, like \`to\`, in the years ${firstYear} to ${lastYear}`;
  }
  return to.getTime() - from.getTime() > rangeDaysMax * dayMs
    ? `must be at most ${rangeDaysMax} days before \`to\``
    : null;
}

function isValid(date: Date): boolean {
  return !Number.isNaN(date.getTime());
}
