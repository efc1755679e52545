import { describe, expect, it } from 'vitest';
import { depthOf } from '../src/lib/depth';
import {
  changePercent,
  decimalsOf,
  formatAge,
  formatBytes,
  formatCount,
  formatDuration,
  formatLatency,
  formatPercent,
  formatRate,
  formatSize,
  formatSpread,
  formatTime,
  isoTime,
  spreadBps,
} from '../src/lib/format';
import { leastAge, nodeState, totalsOf } from '../src/lib/ops';
import { type Nodes, readBook, readNodes, readQuote, readSignal, readTrade } from '../src/lib/payloads';
import { announcement } from '../src/lib/signals';
import { TradeLog } from '../src/markets/trades/trade-log';

/** The same numbers for the same seed, 0 up to 1. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

const TEXTS = [
  ...[
    '',
    ' ',
    '0',
    '-0',
    '1.5',
    '1e400',
    '-1e400',
    '1e-400',
    '0x10',
    'NaN',
    'Infinity',
    'abc',
    '\u0000',
    '🙈',
  ],
  ...['61800.123456789012', `0.${'1'.repeat(200)}`, '9'.repeat(400), 'x'.repeat(70), 'y'.repeat(10_000)],
  ...[
    '2024-08-09T00:54:16Z',
    'BUY',
    'sell',
    '__proto__',
    'constructor',
    '<b>',
    '1,5',
    '1 000',
    '+5',
    '.5',
    '5.',
  ],
];
const NUMBERS = [
  0,
  -0,
  1,
  -1,
  1.5,
  1.7,
  1e21,
  -1e21,
  1e-9,
  5e-324,
  1.7976931348623157e308,
  2 ** 53,
  4e12,
  1e15,
  9e15,
];
const NAMES = [
  ...[
    'sim',
    'bid',
    'ask',
    'bid_size',
    'ask_size',
    'last',
    'open',
    'b',
    'a',
    'p',
    'q',
    'side',
    'id',
    'source',
  ],
  ...[
    'time',
    'symbol',
    'signal',
    'confidence',
    'price',
    'target',
    'stop_loss',
    'reason',
    'name',
    'version',
    'at',
  ],
  ...[
    'started_at',
    'ready',
    'reasons',
    'draining',
    'sessions',
    'sessions_max',
    'sessions_by_shard',
    'topics',
  ],
  ...[
    'slow_sessions',
    'backlog_bytes',
    'queue_depth',
    'rss_bytes',
    'rates',
    'deltas',
    'deliveries',
    'sources',
  ],
  ...[
    'connected',
    'lag_ms',
    'note',
    '__proto__',
    'constructor',
    'toString',
    'hasOwnProperty',
    '',
    'n'.repeat(70),
  ],
];

/** Any JSON, as a browser reads it: numbers that are too large are infinite. */
function anyJson(next: () => number, depth = 3): unknown {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T;
  const kind = Math.floor(next() * (depth > 0 ? 8 : 5));
  if (kind === 0) return null;
  if (kind === 1) return next() < 0.5;
  if (kind === 2) return pick(TEXTS);
  if (kind === 3) return pick(NUMBERS);
  if (kind === 4) return JSON.parse('1e400');
  const size = Math.floor(next() * 6);
  if (kind === 5) return Array.from({ length: size }, () => anyJson(next, depth - 1));
  const members = Array.from({ length: 2 * size }, () => [
    pick(next() < 0.9 ? NAMES : TEXTS),
    anyJson(next, depth - 1),
  ]);
  return JSON.parse(JSON.stringify(Object.fromEntries(members)).replaceAll(':null', ':1e400'));
}

const isText = (value: unknown) => value === undefined || typeof value === 'string';
/** Everything that is written on the page is a text of bounded length. */
const written = (...texts: (string | undefined)[]) =>
  texts.every((text) => isText(text) && (text ?? '').length <= 600);

const RUNS = 4000;
function forAnyJson(check: (data: unknown) => void): void {
  const next = random(15);
  for (let run = 0; run < RUNS; run += 1) {
    const data = anyJson(next);
    try {
      check(data);
    } catch (error) {
      throw new Error(`with ${JSON.stringify(data)}: ${error}`);
    }
  }
}

describe('any JSON', () => {
  it('is a quote, or says why it is none', () => {
    forAnyJson((data) => {
      const quote = readQuote(data);
      const { bid, ask, last, open, bid_size: size } = quote;
      for (const price of [bid, ask, last, open, size]) {
        expect(price === undefined || (Number.isFinite(Number(price)) && price.length <= 32)).toBe(true);
      }
      const spread = formatSpread(bid, ask);
      const bps = spreadBps(bid, ask);
      expect(written(spread, formatPercent(changePercent(open, last)), formatSize(size), quote.problem)).toBe(
        true,
      );
      expect(written(bps?.toPrecision(2), formatTime(Number(bid)), isoTime(Number(bid)))).toBe(true);
      expect(decimalsOf(bid) <= 12).toBe(true);
    });
  });

  it('is a book, or says why it is none', () => {
    forAnyJson((data) => {
      const book = readBook(data);
      const depth = depthOf(book, 25);
      for (const { price, size, total, share } of [...depth.bids, ...depth.asks]) {
        expect(size > 0 && total >= size && share >= 0).toBe(true);
        expect(written(price, formatSize(size), formatSize(total))).toBe(true);
      }
      expect(written(book.problem, depth.spread?.toFixed(depth.decimals))).toBe(true);
    });
  });

  it('is a trade, or says why it is none', () => {
    const log = new TradeLog();
    forAnyJson((data) => {
      const trade = readTrade(data);
      if (trade.p === undefined) expect(trade.problem).toBeDefined();
      log.add({ items: [{ offset: 1, time: 1, data: trade }], gap: false, restarted: false });
      expect(written(trade.p, trade.q, trade.side, trade.problem)).toBe(true);
    });
    for (const { list } of Object.values(log.candles)) {
      expect(
        list.every(({ open, high, low, close, volume }) => open + high + low + close + volume < 1e18),
      ).toBe(true);
    }
  });

  it('is a signal, or says why it is none', () => {
    forAnyJson((data) => {
      const signal = readSignal(data);
      if (signal.symbol === undefined || signal.signal === undefined) expect(signal.problem).toBeDefined();
      const { confidence, time } = signal;
      expect(confidence === undefined || (confidence >= 0 && confidence <= 100)).toBe(true);
      expect(time === undefined || isoTime(time) !== undefined).toBe(true);
      expect(written(signal.symbol, signal.signal, signal.reason, signal.source, signal.problem)).toBe(true);
      expect(announcement(1, signal)).toBeTypeOf('string');
    });
  });

  it('is the report of a node, or says why it is none', () => {
    forAnyJson((data) => {
      const nodes: Nodes = readNodes({ odd: data });
      const { odd } = nodes;
      if (odd === undefined) throw new Error('there is no report');
      const totals = totalsOf(nodes, 1e12, leastAge(Number.POSITIVE_INFINITY, nodes, 1e12));
      expect(Object.values(totals).every((value) => Number.isFinite(value) && value >= 0)).toBe(true);
      expect(written(odd.name, odd.version, odd.problem, ...odd.reasons)).toBe(true);
      expect(nodeState(odd, 1e12, 0).kind).toBeTypeOf('string');
      for (const { name, note, lag_ms: lag } of odd.sources) {
        expect(written(name, note ?? '', formatLatency(lag))).toBe(true);
      }
      const bar = odd.sessions_by_shard.map((n) => `${formatCount(n)} ${formatAge(n)}`);
      expect(written(...bar.map((text) => text.slice(0, 600)))).toBe(true);
      expect(written(formatBytes(odd.rss_bytes), formatRate(odd.rates.deltas))).toBe(true);
      expect(formatDuration(odd.at - odd.started_at)).toBeTypeOf('string');
      readNodes(data);
    });
  });
});

describe('what can be understood is', () => {
  it('numbers in place of text, with their digits', () => {
    const quote = readQuote({ bid: 1.5, ask: ' 1.60 ', last: Number.POSITIVE_INFINITY, open: null });
    expect(quote).toMatchObject({ bid: '1.5', ask: '1.60', last: undefined, open: undefined });
    expect(quote.problem).toBe('last is Infinity');
  });

  it('twelve decimals', () => {
    expect(readQuote({ bid: '0.000000000012' }).bid).toBe('0.000000000012');
    expect(formatSpread('0.000000000012', '0.000000000014')).toBe('0.000000000002');
  });

  it('nothing yet is no problem, and what is no object is one', () => {
    for (const data of [undefined, null, {}]) expect(readQuote(data).problem).toBeUndefined();
    expect(readQuote([1]).problem).toBe('it is [1], not an object');
    expect(readSignal(null).problem).toBe('it is null, not an object');
    expect(readQuote({ bid: {}, ask: [], last: true }).problem).toBe('bid is {}, and 2 more');
  });

  it('books as lists of pairs, and numbers for sizes', () => {
    expect(readBook({ b: [[100.5, 2]], a: { '101.0': 3, x: 1 } })).toMatchObject({
      b: { '100.5': '2' },
      a: { '101.0': '3' },
      problem: 'a is ["x",1]',
    });
  });

  it('a confidence of 1.7, names of 70 characters, dates as text', () => {
    const signal = readSignal({
      symbol: 'S'.repeat(70),
      signal: 'buy',
      confidence: 1.7,
      time: '2024-08-09T00:54:16Z',
    });
    expect(signal).toMatchObject({
      symbol: 'S'.repeat(70),
      signal: 'BUY',
      confidence: 1.7,
      time: 1_723_164_856_000,
      problem: undefined,
    });
    expect(readSignal({ symbol: 'A', signal: 'BUY', confidence: 170 }).confidence).toBe(100);
    expect(readSignal({ symbol: 7, signal: 'X', time: 1e300 })).toMatchObject({
      symbol: '7',
      problem: 'time is 1e+300',
    });
  });

  it('a state is read once, however often it is drawn', () => {
    const data = { bid: '1' };
    expect(readQuote(data)).toBe(readQuote(data));
  });
});
