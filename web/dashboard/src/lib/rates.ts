// Rates from counters, and medians.

/** The middle of `values` (the mean of the two middle ones if even); undefined for none. Does not change its input. */
export function median(values: readonly number[]): number | undefined {
  if (values.length === 0) return undefined;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle];
  if (sorted.length % 2 === 1 || upper === undefined) return upper;
  return ((sorted[middle - 1] ?? upper) + upper) / 2;
}

/** Turns a counter that is sampled now and then into a rate per second. */
export class RateMeter {
  #count: number | undefined;
  #at = 0;

  /** The rate since the last sample; undefined for the first one, after no time, and after the counter was reset. */
  look(count: number, nowMs: number): number | undefined {
    const before = this.#count;
    const elapsed = nowMs - this.#at;
    this.#count = count;
    this.#at = nowMs;
    if (before === undefined || elapsed <= 0 || count < before) return undefined;
    return ((count - before) * 1000) / elapsed;
  }
}
