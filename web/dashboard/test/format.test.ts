import { describe, expect, it } from 'vitest';
import {
  changePercent,
  decimalsOf,
  formatAge,
  formatBytes,
  formatDuration,
  formatLatency,
  formatPercent,
  formatRate,
  formatSize,
  formatSpread,
  NONE,
  spreadBps,
} from '../src/lib/format';

describe('prices', () => {
  it('keeps the decimals that were sent', () => {
    expect(decimalsOf('1.20')).toBe(2);
    expect(decimalsOf('61800')).toBe(0);
    expect(decimalsOf('1.5e-3')).toBe(4);
    expect(decimalsOf('1e3')).toBe(0);
    expect(decimalsOf('0.1234567890123456')).toBe(12);
    expect(decimalsOf(undefined)).toBe(0);
  });

  it('writes a spread with the decimals of the finer side, without binary noise', () => {
    expect(formatSpread('61800.00', '61800.01')).toBe('0.01');
    expect(formatSpread('0.1', '0.30')).toBe('0.20');
    expect(formatSpread(undefined, '1')).toBe(NONE);
    expect(formatSpread('', '1')).toBe(NONE);
  });

  it('measures a spread against the mid', () => {
    expect(spreadBps('99', '101')).toBeCloseTo(200);
    expect(spreadBps('0', '0')).toBeUndefined();
  });
});

describe('change', () => {
  it('is relative to the open', () => {
    expect(changePercent('100', '101.5')).toBeCloseTo(1.5);
    expect(changePercent('0', '1')).toBeUndefined();
    expect(changePercent(undefined, '1')).toBeUndefined();
  });

  it('has a sign only where something changed', () => {
    expect(formatPercent(1.234)).toBe('+1.23%');
    expect(formatPercent(-0.4)).toBe('−0.40%');
    expect(formatPercent(-0.001)).toBe('0.00%');
    expect(formatPercent(undefined)).toBe(NONE);
  });
});

describe('times', () => {
  it('writes an age in one unit', () => {
    expect([0, 999, 1000, 59_999, 60_000, 3_600_000, 90_000_000].map(formatAge)).toEqual([
      'now',
      'now',
      '1s',
      '59s',
      '1m',
      '1h',
      '1d',
    ]);
    // The clock ticks once a second, so a value can be from "after now".
    expect(formatAge(-300)).toBe('now');
  });

  it('writes a duration in two', () => {
    expect([0, 42_000, 192_000, 18_120_000, 273_600_000].map(formatDuration)).toEqual([
      '0s',
      '42s',
      '3m 12s',
      '5h 02m',
      '3d 04h',
    ]);
  });
});

describe('amounts', () => {
  it('shortens bytes', () => {
    expect([0, 999, 1000, 1440, 999_600, 23_000_000].map(formatBytes)).toEqual([
      '0 B',
      '999 B',
      '1.0 kB',
      '1.4 kB',
      '1.0 MB',
      '23 MB',
    ]);
  });

  it('shortens rates', () => {
    expect([0, 0.25, 9.94, 9.96, 1234.4, 123_456, 12_300_000].map(formatRate)).toEqual([
      '0',
      '0.3',
      '9.9',
      '10',
      '1,234',
      '123k',
      '12.3M',
    ]);
  });

  it('writes latencies, also those of clocks that differ', () => {
    expect([0, 12.4, 1500, 12_000, -8].map(formatLatency)).toEqual([
      '0 ms',
      '12 ms',
      '1.5 s',
      '12 s',
      '−8 ms',
    ]);
  });

  it('shortens sizes', () => {
    expect(formatSize('0.5')).toBe('0.500');
    expect(formatSize('12345.6')).toBe('12,346');
    expect(formatSize(2_500_000)).toBe('2.50M');
    expect(formatSize(undefined)).toBe(NONE);
  });
});
