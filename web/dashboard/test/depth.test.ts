import { describe, expect, it } from 'vitest';
import { depthOf } from '../src/lib/depth';

const book = {
  b: { '99.50': '2', '100.00': '1', '98.00': '5' },
  a: { '100.50': '3', '101.00': '1', '110.00': '2' },
};

describe('depthOf', () => {
  it('sorts both sides from the best price and cumulates', () => {
    const depth = depthOf(book, 10);
    expect(depth.bids.map((level) => [level.price, level.total])).toEqual([
      ['100.00', 1],
      ['99.50', 3],
      ['98.00', 8],
    ]);
    expect(depth.asks.map((level) => [level.price, level.total])).toEqual([
      ['100.50', 3],
      ['101.00', 4],
      ['110.00', 6],
    ]);
    expect(depth.spread).toBeCloseTo(0.5);
    expect(depth.decimals).toBe(2);
  });

  it('draws both sides on one scale', () => {
    const depth = depthOf(book, 10);
    expect(depth.bids.at(-1)?.share).toBe(1);
    expect(depth.asks.at(-1)?.share).toBe(6 / 8);
    expect(depth.bidShare).toBe(8 / 14);
  });

  it('keeps the best rows', () => {
    expect(depthOf(book, 1).bids.map((level) => level.price)).toEqual(['100.00']);
  });

  it('sorts by value, not by text', () => {
    expect(depthOf({ b: { '9.0': '1', '10.0': '1' }, a: {} }, 5).bids[0]?.price).toBe('10.0');
  });

  it('leaves out sizes of zero and what is no price', () => {
    expect(depthOf({ b: { '9.0': '0', x: '1', '8.0': '1e400' }, a: {} }, 5).bids).toEqual([]);
  });

  it('says nothing of a side that is empty', () => {
    const depth = depthOf({ b: { '1': '1' }, a: {} }, 5);
    expect([depth.bestAsk, depth.spread]).toEqual([undefined, undefined]);
    expect(depthOf({ b: {}, a: {} }, 5).bidShare).toBeUndefined();
  });
});
