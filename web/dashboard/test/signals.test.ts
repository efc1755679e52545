import { describe, expect, it } from 'vitest';
import { readSignal, type Signal } from '../src/lib/payloads';
import { addSignals, announcement, SIGNALS_MAX, type SignalEntry } from '../src/lib/signals';

const signal = (id: number): Signal => readSignal({ id, symbol: 'BTCUSDT', signal: 'BUY', confidence: 80 });
const items = (...offsets: number[]) =>
  offsets.map((offset) => ({ offset, time: offset, data: signal(offset) }));
const batch = (offsets: number[], flags: { gap?: boolean; restarted?: boolean } = {}) => ({
  items: items(...offsets),
  gap: false,
  restarted: false,
  ...flags,
});
const offsets = (entries: readonly SignalEntry[]) => entries.map((entry) => entry.offset);
const none: readonly SignalEntry[] = [];

describe('addSignals', () => {
  it('orders by offset, newest first, whatever the order of arrival', () => {
    expect(offsets(addSignals(addSignals(none, batch([3, 1])), batch([4, 2])))).toEqual([4, 3, 2, 1]);
  });

  it('has each once', () => {
    const once = addSignals(none, batch([1, 2, 2]));
    expect(offsets(once)).toEqual([2, 1]);
    expect(addSignals(once, batch([2, 1]))).toBe(once);
  });

  it('is bounded and drops the oldest', () => {
    const many = addSignals(none, batch(Array.from({ length: SIGNALS_MAX + 50 }, (_, i) => i)));
    expect(many.length).toBe(SIGNALS_MAX);
    expect(many.at(-1)?.offset).toBe(50);
  });

  it('marks the oldest of what came after a gap', () => {
    const entries = addSignals(addSignals(none, batch([1, 2])), batch([9, 8], { gap: true }));
    expect(entries.map((entry) => entry.gapBefore)).toEqual([false, true, false, false]);
  });

  it('has no gap before the first that it has seen', () => {
    expect(addSignals(none, batch([8], { gap: true }))[0]?.gapBefore).toBe(false);
  });

  it('puts a new epoch above the old, though its offsets are lower', () => {
    const entries = addSignals(addSignals(none, batch([100, 101])), batch([1, 2], { restarted: true }));
    expect(offsets(entries)).toEqual([2, 1, 101, 100]);
    expect(entries[1]?.gapBefore).toBe(true);
    expect(offsets(addSignals(entries, batch([3])))).toEqual([3, 2, 1, 101, 100]);
  });
});

describe('announcement', () => {
  it('is short for many', () => {
    expect(announcement(1, signal(1))).toBe('New signal: BUY BTCUSDT, confidence 80 percent');
    expect(announcement(3, signal(1))).toBe('3 new signals. Newest: BUY BTCUSDT, confidence 80 percent');
    expect(announcement(1, readSignal(null))).toBe('New signal: one that could not be read');
  });
});
