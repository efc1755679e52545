// Fast scrolling must not turn into a storm of subscribe commands: the server closes sessions that send too many
// (limits.commands_per_second). So rows wait here for their turn.

/** Runs callbacks at a limited rate: a burst at once, then a number per second. A cancelled callback costs nothing. */
export class Pace {
  readonly #capacity: number;
  readonly #perSecond: number;
  readonly #now: () => number;
  #tokens: number;
  #at: number;
  #waiting = new Set<() => void>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `burst` at once, `perSecond` from then on. `now` is a monotonic clock in ms. */
  constructor(burst: number, perSecond: number, now: () => number = () => performance.now()) {
    this.#capacity = burst;
    this.#perSecond = perSecond;
    this.#now = now;
    this.#tokens = burst;
    this.#at = now();
  }

  /** Calls `go` now or when its turn comes. Returns a function that cancels it. */
  request(go: () => void): () => void {
    this.#refill();
    if (this.#waiting.size === 0 && this.#tokens >= 1) {
      this.#tokens -= 1;
      go();
      return () => {};
    }
    this.#waiting.add(go);
    this.#arm();
    return () => {
      this.#waiting.delete(go);
    };
  }

  #refill(): void {
    const now = this.#now();
    this.#tokens = Math.min(this.#capacity, this.#tokens + ((now - this.#at) / 1000) * this.#perSecond);
    this.#at = now;
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#waiting.size === 0) return;
    const wait = Math.max(10, ((1 - this.#tokens) / this.#perSecond) * 1000);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#refill();
      // A set keeps the order of arrival.
      for (const go of this.#waiting) {
        if (this.#tokens < 1) break;
        this.#tokens -= 1;
        this.#waiting.delete(go);
        go();
      }
      this.#arm();
    }, wait);
  }
}
