// Candles from trades.

/** A trade for the chart. */
export interface Tick {
  /** Unix ms. */
  time: number;
  price: number;
  size: number;
}

/** One candle. `time` is the start of its interval in Unix seconds, as the chart requires. */
export interface Candle {
  time: number;
  open: number;
  high: number;
  low: number;
  close: number;
  volume: number;
}

/** Candles of one interval, oldest first, bounded. */
export class Candles {
  readonly list: Candle[] = [];
  readonly #seconds: number;
  readonly #limit: number;

  /** `seconds` is the interval; `limit` how many candles are kept. */
  constructor(seconds: number, limit = 1500) {
    this.#seconds = seconds;
    this.#limit = limit;
  }

  /**
   * Adds a trade. Trades come in the order of the stream; one whose clock lies before the newest candle counts to
   * that candle, because a chart cannot go back and the trade must not be lost.
   */
  add(tick: Tick): void {
    const start = Math.floor(tick.time / 1000 / this.#seconds) * this.#seconds;
    const newest = this.list[this.list.length - 1];
    if (newest !== undefined && start <= newest.time) {
      newest.high = Math.max(newest.high, tick.price);
      newest.low = Math.min(newest.low, tick.price);
      newest.close = tick.price;
      newest.volume += tick.size;
      return;
    }
    this.list.push({
      time: start,
      open: tick.price,
      high: tick.price,
      low: tick.price,
      close: tick.price,
      volume: tick.size,
    });
    // In steps, because each cut moves the whole list.
    if (this.list.length > this.#limit * 1.1) this.list.splice(0, this.list.length - this.#limit);
  }

  /** Candles from `time` (Unix seconds) on: those that may have changed since a chart last saw `time` as newest. */
  since(time: number): Candle[] {
    let i = this.list.length;
    while (i > 0 && (this.list[i - 1]?.time ?? Number.NEGATIVE_INFINITY) >= time) i -= 1;
    return this.list.slice(i);
  }
}
