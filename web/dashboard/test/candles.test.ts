import { describe, expect, it } from 'vitest';
import { Candles } from '../src/lib/candles';

const at = (seconds: number, price: number, size = 1) => ({ time: seconds * 1000, price, size });

describe('Candles', () => {
  it('gathers the trades of an interval', () => {
    const candles = new Candles(5);
    for (const tick of [at(100, 10), at(101, 12, 2), at(104.999, 9), at(105, 11)]) candles.add(tick);
    expect(candles.list).toEqual([
      { time: 100, open: 10, high: 12, low: 9, close: 9, volume: 4 },
      { time: 105, open: 11, high: 11, low: 11, close: 11, volume: 1 },
    ]);
  });

  it('starts intervals at whole multiples, whenever the first trade comes', () => {
    const candles = new Candles(60);
    candles.add(at(119, 1));
    expect(candles.list[0]?.time).toBe(60);
  });

  it('leaves out intervals without trades', () => {
    const candles = new Candles(5);
    candles.add(at(0, 1));
    candles.add(at(50, 2));
    expect(candles.list.map((candle) => candle.time)).toEqual([0, 50]);
  });

  it('counts a late trade to the newest candle', () => {
    const candles = new Candles(5);
    candles.add(at(10, 1));
    candles.add(at(3, 4, 2));
    expect(candles.list).toEqual([{ time: 10, open: 1, high: 4, low: 1, close: 4, volume: 3 }]);
  });

  it('is bounded', () => {
    const candles = new Candles(1, 10);
    for (let i = 0; i < 100; i += 1) candles.add(at(i, i));
    expect(candles.list.length).toBeLessThanOrEqual(11);
    expect(candles.list.at(-1)?.time).toBe(99);
  });

  it('tells what may have changed since a candle was drawn', () => {
    const candles = new Candles(1);
    for (let i = 0; i < 5; i += 1) candles.add(at(i, i));
    expect(candles.since(3).map((candle) => candle.time)).toEqual([3, 4]);
    expect(candles.since(9)).toEqual([]);
  });
});
