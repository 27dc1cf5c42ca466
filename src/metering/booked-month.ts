/** The first day, in UTC, of the month that a time lies in. */
export function monthOf(time: Date): string {
  return `${time.toISOString().slice(0, 7)}-01`;
}

/** The first day of the month so many months after, or before. */
export function addMonths(month: string, count: number): string {
  const time = new Date(`${month}T00:00:00.000Z`);
  time.setUTCMonth(time.getUTCMonth() + count);
  return monthOf(time);
}

/**
 * The month that an event is billed in: its own, or the first one after it that was open when the event came.
 *
 * A month is closed for what comes after the position that it was closed at; what was before the first closed one was
 * closed with it. `closed` has all that were closed from `own` on.
 */
export function bookedMonth(
  own: string,
  position: bigint,
  closed: ReadonlyMap<string, bigint>,
): string {
  let month = own;
  const first = closed.has(own) ? own : firstOf(closed);
  if (first !== undefined && first > own && (closed.get(first) ?? position) < position) {
    month = first;
  }
  for (;;) {
    const closedPosition = closed.get(month);
    if (closedPosition === undefined || closedPosition >= position) {
      return month;
    }
    month = addMonths(month, 1);
  }
}

function firstOf(closed: ReadonlyMap<string, bigint>): string | undefined {
  let first: string | undefined;
  for (const month of closed.keys()) {
    first = first === undefined || month < first ? month : first;
  }
  return first;
}
