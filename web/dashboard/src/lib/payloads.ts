// The payloads of this server's topics, and how a page reads them. Publishers may send any JSON: only here it
// becomes something that can be shown. A reader never throws; `problem` names the parts that it could not read.

/** What every reader returns besides the values. */
interface Readable {
  sim: boolean;
  /** The parts of the payload that could not be read, for people; undefined if there are none. */
  problem: string | undefined;
}

/** State of `quotes:SYM`. Prices and sizes are text with the digits of the source. */
export interface Quote extends Readable {
  bid: string | undefined;
  ask: string | undefined;
  bid_size: string | undefined;
  ask_size: string | undefined;
  last: string | undefined;
  open: string | undefined;
}

/** State of `book:SYM`: size by price, bids and asks. */
export interface Book extends Readable {
  b: Record<string, string>;
  a: Record<string, string>;
}

/** An event of `trades:SYM`. Without a price it cannot be shown as a trade. */
export interface Trade extends Readable {
  p: string | undefined;
  q: string | undefined;
  side: 'buy' | 'sell' | undefined;
}

/** An event of `signals:all`. Without a symbol and a signal it cannot be shown as one. */
export interface Signal extends Readable {
  symbol: string | undefined;
  /** BUY, SELL or HOLD; any other word is shown unchanged. */
  signal: string | undefined;
  source: string | undefined;
  /** Unix ms. */
  time: number | undefined;
  /** Percent, 0…100. */
  confidence: number | undefined;
  price: string | undefined;
  target: string | undefined;
  stop_loss: string | undefined;
  reason: string | undefined;
}

/** A source, as a node reports it. */
export interface NodeSource {
  name: string;
  connected: boolean;
  lag_ms: number;
  deltas: number;
  note: string | null;
}

/** A node's report about itself, once per second. */
export interface NodeReport {
  name: string;
  version: string;
  at: number;
  started_at: number;
  ready: boolean;
  reasons: string[];
  draining: boolean;
  sessions: number;
  sessions_max: number;
  sessions_by_shard: number[];
  subscriptions: number;
  topics: number;
  slow_sessions: number;
  backlog_bytes: number;
  queue_depth: number;
  rss_bytes: number;
  rates: { deltas: number; deliveries: number; conflated: number; sent_bytes: number };
  sources: NodeSource[];
  /** The parts of the report that could not be read; their values are 0. */
  problem?: string | undefined;
}

/** State of `ops:nodes`: reports by node id. */
export type Nodes = Record<string, NodeReport>;

/** Longest number that is shown as it was sent, in characters. */
const NUMBER_MAX = 32;
/** Longest word: a symbol, a signal, the name of a source. */
const WORD_MAX = 80;
/** Longest sentence. */
const SENTENCE_MAX = 500;
/** Longest piece of a payload that a problem quotes. */
const QUOTE_MAX = 40;
/** Items of a list in a report. */
const LIST_MAX = 256;
/** End of the year 9999 in Unix ms: later times have no date that a browser can write. */
const TIME_MAX = 253_402_300_799_999;

const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i;

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function shortened(text: string, max: number): string {
  return text.length <= max ? text : `${text.slice(0, max - 1)}…`;
}

/** A value in few characters, for people. */
export function preview(value: unknown): string {
  // JSON cannot express numbers that are too large.
  if (typeof value === 'number') return String(value);
  try {
    return shortened(JSON.stringify(value) ?? String(value), QUOTE_MAX);
  } catch {
    return 'something that cannot be written';
  }
}

/** A number as text, as it was sent if that is short enough; undefined if it is no finite number. */
function numberText(value: unknown): string | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? String(value) : undefined;
  if (typeof value !== 'string') return undefined;
  const text = value.trim();
  if (!NUMBER.test(text)) return undefined;
  const number = Number(text);
  if (!Number.isFinite(number)) return undefined;
  return text.length <= NUMBER_MAX ? text : String(number);
}

/** Reads the members of one object and remembers which could not be read. */
class Members {
  readonly #from: Record<string, unknown>;
  readonly #problems: string[] = [];
  readonly #path: string;

  constructor(data: unknown, path = '') {
    this.#path = path;
    if (isObject(data)) {
      this.#from = data;
    } else {
      this.#from = {};
      this.#problems.push(
        path === '' ? `it is ${preview(data)}, not an object` : `${path} is ${preview(data)}`,
      );
    }
  }

  /** Everything that was wrong, in one line. */
  get problem(): string | undefined {
    const [first, ...others] = this.#problems;
    return first === undefined || others.length === 0 ? first : `${first}, and ${others.length} more`;
  }

  get sim(): boolean {
    return this.#own('sim') === true;
  }

  /** A member's value; `null` counts as absent. */
  #own(name: string): unknown {
    return Object.hasOwn(this.#from, name) ? (this.#from[name] ?? undefined) : undefined;
  }

  #wrong(name: string, value: unknown): undefined {
    const path = this.#path === '' ? name : `${this.#path}.${name}`;
    this.#problems.push(`${path} is ${preview(value)}`);
    return undefined;
  }

  /** A price or a size. */
  number(name: string): string | undefined {
    const value = this.#own(name);
    // Some sources send an empty string for a missing value.
    if (value === undefined || value === '') return undefined;
    return numberText(value) ?? this.#wrong(name, value);
  }

  /** A number to compute with. */
  amount(name: string): number | undefined {
    const text = this.number(name);
    return text === undefined ? undefined : Number(text);
  }

  /** A count, a number of bytes, a rate: 0 if missing or negative. */
  count(name: string): number {
    const amount = this.amount(name) ?? 0;
    return amount >= 0 ? amount : (this.#wrong(name, amount) ?? 0);
  }

  /** Text, or a number as text. */
  text(name: string, max = WORD_MAX): string | undefined {
    const value = this.#own(name);
    if (value === undefined || value === '') return undefined;
    if (typeof value === 'string') return shortened(value, max);
    return numberText(value) ?? this.#wrong(name, value);
  }

  /** Unix ms, as a number or text, or a date in the manner of ISO 8601. */
  time(name: string): number | undefined {
    const value = this.#own(name);
    if (value === undefined || value === '') return undefined;
    const text = numberText(value);
    const time =
      text !== undefined ? Number(text) : typeof value === 'string' ? Date.parse(value) : Number.NaN;
    return time >= 0 && time <= TIME_MAX ? Math.floor(time) : this.#wrong(name, value);
  }

  flag(name: string): boolean {
    const value = this.#own(name);
    if (value === undefined || typeof value === 'boolean') return value === true;
    return this.#wrong(name, value) ?? false;
  }

  /** The items of a list, read by `read`; those that it cannot read are left out. */
  list<T>(name: string, read: (item: unknown) => T | undefined): T[] {
    const value = this.#own(name);
    if (value === undefined) return [];
    if (!Array.isArray(value)) return this.#wrong(name, value) ?? [];
    const items: T[] = [];
    for (const item of value.slice(0, LIST_MAX)) {
      const one = read(item);
      if (one === undefined) this.#wrong(name, item);
      else items.push(one);
    }
    return items;
  }

  /** The members of a member. */
  within(name: string): Members {
    return new Members(this.#own(name) ?? {}, name);
  }

  /** Size by price: an object, or a list of pairs. Invalid prices and sizes are left out. */
  levels(name: string): Record<string, string> {
    const value = this.#own(name);
    if (value === undefined) return {};
    if (!isObject(value) && !Array.isArray(value)) return this.#wrong(name, value) ?? {};
    const pairs: readonly unknown[] = Array.isArray(value) ? value : Object.entries(value);
    const levels: Record<string, string> = {};
    for (const pair of pairs) {
      const [price, size] = Array.isArray(pair) ? [numberText(pair[0]), numberText(pair[1])] : [];
      if (price === undefined || size === undefined) this.#wrong(name, pair);
      else levels[price] = size;
    }
    return levels;
  }

  /** Records the problem of a part. */
  note(problem: string | undefined): void {
    if (problem !== undefined) this.#problems.push(problem);
  }

  /** Records that a required member is missing. */
  needs(name: string, value: unknown): void {
    if (value === undefined && this.#problems.length === 0) this.#problems.push(`it has no ${name}`);
  }
}

/** Remembers the last result for each payload: a state is read once, however often it is drawn. */
function remembered<T>(read: (data: unknown) => T): (data: unknown) => T {
  const known = new WeakMap<object, T>();
  return (data) => {
    if (typeof data !== 'object' || data === null) return read(data);
    const before = known.get(data);
    if (before !== undefined) return before;
    const made = read(data);
    known.set(data, made);
    return made;
  };
}

/** A topic without publications has the state `null`. */
const nothing = (data: unknown): boolean => data === undefined || data === null;

/** Reads the state of `quotes:SYM`. */
export const readQuote = remembered((data: unknown): Quote => {
  const from = new Members(nothing(data) ? {} : data);
  return {
    sim: from.sim,
    bid: from.number('bid'),
    ask: from.number('ask'),
    bid_size: from.number('bid_size'),
    ask_size: from.number('ask_size'),
    last: from.number('last'),
    open: from.number('open'),
    problem: from.problem,
  };
});

/** Reads the state of `book:SYM`. */
export const readBook = remembered((data: unknown): Book => {
  const from = new Members(nothing(data) ? {} : data);
  return { sim: from.sim, b: from.levels('b'), a: from.levels('a'), problem: from.problem };
});

/** Reads an event of `trades:SYM`. */
export function readTrade(data: unknown): Trade {
  const from = new Members(data);
  const p = from.number('p');
  const side = from.text('side')?.toLowerCase();
  from.needs('price (p)', p);
  return {
    sim: from.sim,
    p,
    q: from.number('q'),
    side: side === 'buy' || side === 'sell' ? side : undefined,
    problem: from.problem,
  };
}

/** Reads an event of `signals:all`. */
export function readSignal(data: unknown): Signal {
  const from = new Members(data);
  const symbol = from.text('symbol');
  const signal = from.text('signal')?.toUpperCase();
  const confidence = from.amount('confidence');
  from.needs('symbol', symbol);
  from.needs('signal', signal);
  return {
    sim: from.sim,
    symbol,
    signal,
    source: from.text('source'),
    time: from.time('time'),
    confidence: confidence === undefined ? undefined : Math.min(100, Math.max(0, confidence)),
    price: from.number('price'),
    target: from.number('target'),
    stop_loss: from.number('stop_loss'),
    reason: from.text('reason', SENTENCE_MAX),
    problem: from.problem,
  };
}

function readSource(data: unknown): NodeSource | undefined {
  if (!isObject(data)) return undefined;
  const from = new Members(data);
  return {
    name: from.text('name') ?? 'unnamed',
    connected: from.flag('connected'),
    lag_ms: from.count('lag_ms'),
    deltas: from.count('deltas'),
    note: from.text('note', SENTENCE_MAX) ?? null,
  };
}

function readNode(id: string, data: unknown): NodeReport {
  const from = new Members(data);
  const rates = from.within('rates');
  const word = (item: unknown) => (typeof item === 'string' ? shortened(item, SENTENCE_MAX) : undefined);
  const amount = (item: unknown) => {
    const text = numberText(item);
    return text === undefined || Number(text) < 0 ? undefined : Number(text);
  };
  const report: NodeReport = {
    name: from.text('name') ?? shortened(id, WORD_MAX),
    version: from.text('version') ?? '',
    at: from.time('at') ?? 0,
    started_at: from.time('started_at') ?? 0,
    ready: from.flag('ready'),
    reasons: from.list('reasons', word),
    draining: from.flag('draining'),
    sessions: from.count('sessions'),
    sessions_max: from.count('sessions_max'),
    sessions_by_shard: from.list('sessions_by_shard', amount),
    subscriptions: from.count('subscriptions'),
    topics: from.count('topics'),
    slow_sessions: from.count('slow_sessions'),
    backlog_bytes: from.count('backlog_bytes'),
    queue_depth: from.count('queue_depth'),
    rss_bytes: from.count('rss_bytes'),
    rates: {
      deltas: rates.count('deltas'),
      deliveries: rates.count('deliveries'),
      conflated: rates.count('conflated'),
      sent_bytes: rates.count('sent_bytes'),
    },
    sources: from.list('sources', readSource),
  };
  from.note(rates.problem);
  report.problem = from.problem;
  return report;
}

/** Reads the state of `ops:nodes`. If a report is no object, only the node's id is known. */
export const readNodes = remembered((data: unknown): Nodes => {
  if (!isObject(data)) return {};
  // Entries, not assignments: an id may be any text, `__proto__` too.
  return Object.fromEntries(Object.entries(data).map(([id, report]) => [id, readNode(id, report)]));
});
