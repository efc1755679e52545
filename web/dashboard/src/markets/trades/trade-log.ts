// The trades of one instrument, for chart and tape. One log feeds both and outlives them, so going back to an
// instrument shows the trades that this page has already received.
import { Candles } from '../../lib/candles';
import { decimalsOf, toNumber } from '../../lib/format';
import type { Trade } from '../../lib/payloads';
import type { StreamBatch, StreamPosition } from '../../lib/stream';

/** What the chart can show. */
export type ChartMode = 'line' | '5s' | '1m';

/** A trade on the tape. */
export interface TapeTrade {
  offset: number;
  time: number;
  /** Undefined: the event cannot be shown as a trade. */
  price: string | undefined;
  size: string | undefined;
  side: 'buy' | 'sell' | undefined;
  /** The part that could not be read. */
  problem?: string | undefined;
}

/** The chart's scale ends before this: its documentation says 90 071 992 547 409. */
const CHART_MAX = 9e13;

/** Trades kept for the tape. */
const TAPE_MAX = 60;

/** Candles of all intervals and the last trades. */
export class TradeLog {
  /** How far the stream was followed. */
  readonly position: StreamPosition = { offset: -1, epoch: undefined };
  /** Candles by mode; the line is drawn from the closes of one second each. */
  readonly candles: Record<ChartMode, Candles> = {
    line: new Candles(1, 3600),
    '5s': new Candles(5),
    '1m': new Candles(60),
  };
  /** The last trades, newest first; a new array after every batch. */
  tape: readonly TapeTrade[] = [];
  /** Decimals of the prices. */
  decimals = 2;
  readonly #listeners = new Set<() => void>();

  /** Calls `listener` for every batch, until the returned function is called. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Adds events. */
  add(batch: StreamBatch<Trade>): void {
    const tape: TapeTrade[] = [];
    for (const { offset, time, data } of batch.items) {
      const price = toNumber(data.p);
      // A negative size counts as none, and a price that the chart cannot place has no candle.
      const size = Math.max(0, toNumber(data.q) ?? 0);
      if (price !== undefined && Math.abs(price) < CHART_MAX && size < CHART_MAX) {
        for (const mode in this.candles) this.candles[mode as ChartMode].add({ time, price, size });
        this.decimals = decimalsOf(data.p);
      }
      tape.push({ offset, time, price: data.p, size: data.q, side: data.side, problem: data.problem });
    }
    if (tape.length === 0) return;
    // Offsets are the keys of the rows; offsets of another epoch could be the same.
    const before = batch.restarted ? [] : this.tape;
    this.tape = [...tape.reverse(), ...before].slice(0, TAPE_MAX);
    for (const listener of [...this.#listeners]) listener();
  }
}

/** Instruments whose trades are kept at most. */
const LOGS_MAX = 16;
const logs = new Map<string, TradeLog>();

/** The log of a symbol; the one unused for the longest time is removed. */
export function tradeLog(symbol: string): TradeLog {
  const log = logs.get(symbol) ?? new TradeLog();
  // A map keeps the order of insertion: this one is the newest now.
  logs.delete(symbol);
  logs.set(symbol, log);
  const oldest = logs.keys().next().value;
  if (logs.size > LOGS_MAX && oldest !== undefined) logs.delete(oldest);
  return log;
}
