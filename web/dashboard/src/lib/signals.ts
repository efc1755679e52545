// The feed of signals: ordered by offset, each once, bounded, with a marker where signals may be missing.
import type { Signal } from './payloads';
import type { StreamBatch } from './stream';

/** How many entries the feed keeps. */
export const SIGNALS_MAX = 200;

/** One entry of the feed. */
export interface SignalEntry {
  /** Rises when the stream starts over (new epoch): offsets can be compared only within one generation. */
  generation: number;
  offset: number;
  time: number;
  data: Signal;
  /** Signals may be missing between this one and the older one before it. */
  gapBefore: boolean;
}

/** Whether it cannot be shown as a signal. */
export function isBad({ symbol, signal }: Signal): boolean {
  return symbol === undefined || signal === undefined;
}

/** A stable name for an entry. */
export function signalKey({ generation, offset }: SignalEntry): string {
  return `${generation}-${offset}`;
}

/**
 * `entries` with a batch added: newest first, one per offset, at most `SIGNALS_MAX`. Where the batch says that
 * something was lost or that the stream started over, its oldest new entry is marked.
 * Returns `entries` itself if nothing was new, so that nothing is drawn again.
 */
export function addSignals(
  entries: readonly SignalEntry[],
  batch: StreamBatch<Signal>,
): readonly SignalEntry[] {
  const newest = entries[0];
  const generation = (newest?.generation ?? 0) + (batch.restarted ? 1 : 0);
  const have = new Set<number>();
  for (const entry of entries) if (entry.generation === generation) have.add(entry.offset);

  const fresh: SignalEntry[] = [];
  for (const { offset, time, data } of batch.items) {
    if (have.has(offset)) continue;
    have.add(offset);
    fresh.push({ generation, offset, time, data, gapBefore: false });
  }
  if (fresh.length === 0) return entries;
  fresh.sort(byPosition);
  const oldest = fresh[fresh.length - 1];
  // A gap is between entries: signals before the first one on this page are not missing.
  if (oldest !== undefined && newest !== undefined && (batch.gap || batch.restarted)) oldest.gapBefore = true;
  return [...fresh, ...entries].sort(byPosition).slice(0, SIGNALS_MAX);
}

function byPosition(a: SignalEntry, b: SignalEntry): number {
  return b.generation - a.generation || b.offset - a.offset;
}

/** The announcement of `count` new signals, of which `newest` came last. */
export function announcement(count: number, newest: Signal): string {
  const confidence = newest.confidence === undefined ? '' : `, confidence ${newest.confidence} percent`;
  const one = isBad(newest) ? 'one that could not be read' : `${newest.signal} ${newest.symbol}${confidence}`;
  return count === 1 ? `New signal: ${one}` : `${count} new signals. Newest: ${one}`;
}
