// Formats numbers and times. All functions are pure; the current time is an argument.

/** Shown if there is no value. */
export const NONE = '–';

/** Most decimals in computations: further ones of a sum of prices mean nothing. */
const DECIMALS_MAX = 12;

/** Decimals of a price as it was sent: "1.20" has two, "1.5e-3" has four; never more than 12. */
export function decimalsOf(price: string | undefined): number {
  const [, fraction = '', exponent = '0'] = /\.?(\d*)(?:e([+-]?\d+))?$/i.exec(price ?? '') ?? [];
  const written = price?.includes('.') === true ? fraction.length : 0;
  return Math.min(DECIMALS_MAX, Math.max(0, written - Number(exponent)));
}

/** A price as a number, or undefined if it is none. */
export function toNumber(price: string | number | null | undefined): number | undefined {
  if (price === undefined || price === null || price === '') return undefined;
  const n = Number(price);
  return Number.isFinite(n) ? n : undefined;
}

/** From here on a number is written with a power of ten: its digits would break the page. */
const HUGE = 1e9;

/** Ask less bid, with as many decimals as the finer of the two. */
export function formatSpread(bid: string | undefined, ask: string | undefined): string {
  const b = toNumber(bid);
  const a = toNumber(ask);
  if (b === undefined || a === undefined) return NONE;
  return formatFixed(a - b, Math.max(decimalsOf(bid), decimalsOf(ask)));
}

/** A number with this many decimals (0 to 100), or with a power of ten if it is too large for that. */
export function formatFixed(n: number, decimals: number): string {
  return Math.abs(n) < 1e15 ? n.toFixed(decimals) : n.toExponential(2);
}

/** Spread in basis points of the mid price. */
export function spreadBps(bid: string | undefined, ask: string | undefined): number | undefined {
  const b = toNumber(bid);
  const a = toNumber(ask);
  if (b === undefined || a === undefined || a + b === 0) return undefined;
  return ((a - b) / ((a + b) / 2)) * 10_000;
}

/** Change from `open` to `last` in percent. */
export function changePercent(open: string | undefined, last: string | undefined): number | undefined {
  const o = toNumber(open);
  const l = toNumber(last);
  if (o === undefined || l === undefined || o === 0) return undefined;
  return ((l - o) / o) * 100;
}

/** "+1.23%", "−0.40%", "0.00%": a change always has a sign, with a true minus, so that columns line up. */
export function formatPercent(percent: number | undefined, decimals = 2): string {
  if (percent === undefined) return NONE;
  if (!Number.isFinite(percent)) return NONE;
  const abs = Math.abs(percent);
  const text = abs < HUGE ? abs.toFixed(decimals) : abs.toExponential(2);
  // A value that rounds to zero has no sign.
  if (Number(text) === 0) return `${text}%`;
  return `${percent > 0 ? '+' : '−'}${text}%`;
}

/** An age in the one unit that matters: "now", "8s", "3m", "2h", "4d". */
export function formatAge(ms: number | undefined): string {
  if (ms === undefined) return NONE;
  const s = Math.floor(ms / 1000);
  if (s < 1) return 'now';
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86_400)}d`;
}

/** A duration in its two largest units: "42s", "3m 12s", "5h 02m", "3d 04h". */
export function formatDuration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  const two = (n: number) => String(n).padStart(2, '0');
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${two(s % 60)}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h ${two(Math.floor((s % 3600) / 60))}m`;
  return `${Math.floor(s / 86_400)}d ${two(Math.floor((s % 86_400) / 3600))}h`;
}

const grouped = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** A whole number with groups of three: "19,488". */
export function formatCount(n: number | undefined): string {
  return n === undefined ? NONE : grouped.format(n);
}

/** A rate: one decimal below ten, whole above, "k" and "M" for large ones, whose digits would only flicker. */
export function formatRate(perSecond: number | undefined): string {
  if (perSecond === undefined) return NONE;
  if (perSecond >= 1e15) return perSecond.toExponential(1);
  if (perSecond >= 10_000_000) return `${(perSecond / 1e6).toFixed(1)}M`;
  if (perSecond >= 100_000) return `${(perSecond / 1000).toFixed(0)}k`;
  if (perSecond >= 9.95) return grouped.format(perSecond);
  return perSecond === 0 ? '0' : perSecond.toFixed(1);
}

/** Bytes in powers of ten: "812 B", "1.4 kB", "23 MB". */
export function formatBytes(bytes: number | undefined): string {
  if (bytes === undefined) return NONE;
  let value = Math.max(0, bytes);
  if (value < 1000) return `${Math.round(value)} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let unit = -1;
  do {
    value /= 1000;
    unit += 1;
    // 999.6 kB is written 1.0 MB, not 1000 kB.
  } while (value >= 999.5 && unit < units.length - 1);
  if (value >= 1e6) return `${value.toExponential(1)} ${units[unit]}`;
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]}`;
}

/** A latency: "0.4 ms" never comes from millisecond clocks, so whole ones; seconds from one on. */
export function formatLatency(ms: number | undefined): string {
  if (ms === undefined) return NONE;
  const sign = ms < 0 ? '−' : '';
  const abs = Math.abs(ms);
  if (abs < 1000) return `${sign}${Math.round(abs)} ms`;
  return `${sign}${(abs / 1000).toFixed(abs < 10_000 ? 1 : 0)} s`;
}

/** A size as it was sent, with at most `decimals`, and no more digits than a reader can use. */
export function formatSize(size: string | number | undefined, decimals = 3): string {
  const n = toNumber(size);
  if (n === undefined) return NONE;
  if (Math.abs(n) >= 1e15) return n.toExponential(2);
  if (n >= 1_000_000) return `${(n / 1e6).toFixed(2)}M`;
  if (n >= 10_000) return grouped.format(n);
  return n.toFixed(decimals);
}

/** A time as ISO 8601; undefined if it is outside the range of dates. */
export function isoTime(unixMs: number): string | undefined {
  const date = new Date(unixMs);
  return Number.isNaN(date.getTime()) ? undefined : date.toISOString();
}

/** Local time of day, "14:03:09". */
export function formatTime(unixMs: number): string {
  const d = new Date(unixMs);
  if (Number.isNaN(d.getTime())) return NONE;
  const two = (n: number) => String(n).padStart(2, '0');
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}
