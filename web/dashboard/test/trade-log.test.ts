import { describe, expect, it } from 'vitest';
import { readTrade } from '../src/lib/payloads';
import { TradeLog, tradeLog } from '../src/markets/trades/trade-log';

const trade = (offset: number, p: string) => ({
  offset,
  time: offset * 1000,
  data: readTrade({ p, q: '2', side: 'buy' }),
});
const batch = (items: ReturnType<typeof trade>[], restarted = false) => ({ items, gap: false, restarted });

describe('TradeLog', () => {
  it('feeds tape and all candles from one batch, and tells once', () => {
    const log = new TradeLog();
    let told = 0;
    log.subscribe(() => (told += 1));
    log.add(batch([trade(1, '10.50'), trade(2, '11.00'), trade(3, 'x')]));
    expect(told).toBe(1);
    expect(log.tape.map((one) => one.price)).toEqual([undefined, '11.00', '10.50']);
    expect(log.tape[0]?.problem).toBe('p is "x"');
    expect(log.decimals).toBe(2);
    expect(log.candles['5s'].list).toEqual([
      { time: 0, open: 10.5, high: 11, low: 10.5, close: 11, volume: 4 },
    ]);
    expect(log.candles.line.list.map((candle) => candle.close)).toEqual([10.5, 11]);
  });

  it('has each offset once on the tape, also after the stream started over', () => {
    const log = new TradeLog();
    log.add(batch([trade(1, '1.0'), trade(2, '2.0')]));
    log.add(batch([trade(1, '3.0')], true));
    expect(log.tape.map((one) => one.offset)).toEqual([1]);
  });

  it('is kept for the instruments that were looked at last', () => {
    const first = tradeLog('A');
    expect(tradeLog('A')).toBe(first);
    for (let i = 0; i < 20; i += 1) tradeLog(`S${i}`);
    expect(tradeLog('A')).not.toBe(first);
  });
});
