import { describe, expect, it } from 'vitest';
import { filterSymbols, moveCursor, sortSymbols, symbolOf } from '../src/lib/instruments';

describe('symbols', () => {
  it('are the topic without its namespace', () => {
    expect(symbolOf('quotes:BTCUSDT')).toBe('BTCUSDT');
    expect(symbolOf('quotes:A:B')).toBe('A:B');
  });

  it('sort with numbers as numbers, and do not change the input', () => {
    const input = ['SIM100', 'AAPL', 'SIM22'];
    expect(sortSymbols(input, 'ascending')).toEqual(['AAPL', 'SIM22', 'SIM100']);
    expect(sortSymbols(input, 'descending')).toEqual(['SIM100', 'SIM22', 'AAPL']);
    expect(input[0]).toBe('SIM100');
  });

  it('are filtered by every word, case aside', () => {
    const all = ['BTCUSDT', 'ETHUSDT', 'EURUSD'];
    expect(filterSymbols(all, 'usdt')).toEqual(['BTCUSDT', 'ETHUSDT']);
    expect(filterSymbols(all, ' eth  usd ')).toEqual(['ETHUSDT']);
    expect(filterSymbols(all, '  ')).toBe(all);
  });
});

describe('moveCursor', () => {
  it('stays inside the list', () => {
    expect(moveCursor('ArrowUp', 0, 5, 3)).toBe(0);
    expect(moveCursor('ArrowDown', 4, 5, 3)).toBe(4);
    expect(moveCursor('PageDown', 3, 5, 3)).toBe(4);
    expect(moveCursor('PageUp', 1, 5, 3)).toBe(0);
    expect(moveCursor('Home', 3, 5, 3)).toBe(0);
    expect(moveCursor('End', 0, 5, 3)).toBe(4);
  });

  it('starts at the top where nothing was', () => {
    expect(moveCursor('ArrowDown', -1, 5, 3)).toBe(0);
    expect(moveCursor('ArrowUp', -1, 5, 3)).toBe(0);
  });

  it('leaves other keys and empty lists alone', () => {
    expect(moveCursor('x', 0, 5, 3)).toBeUndefined();
    expect(moveCursor('End', -1, 0, 3)).toBeUndefined();
  });
});
