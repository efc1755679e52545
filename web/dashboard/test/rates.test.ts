import { describe, expect, it } from 'vitest';
import { SocketMeter, timeAtEnd } from '../src/lib/meter';
import { median, RateMeter } from '../src/lib/rates';

describe('median', () => {
  it('is the middle, or the mean of the two', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(median([])).toBeUndefined();
  });
});

describe('RateMeter', () => {
  it('is per second, whatever the time between two looks', () => {
    const meter = new RateMeter();
    expect(meter.look(100, 1000)).toBeUndefined();
    expect(meter.look(150, 1500)).toBe(100);
    expect(meter.look(150, 2500)).toBe(0);
  });

  it('does not go below zero when a counter begins anew', () => {
    const meter = new RateMeter();
    meter.look(100, 1000);
    expect(meter.look(5, 2000)).toBeUndefined();
    expect(meter.look(15, 3000)).toBe(10);
  });
});

describe('SocketMeter', () => {
  const push = (time: number, tags = '') =>
    `{"push":{"channel":"quotes:A","pub":{"data":{"time":1},"offset":3${tags},"time":${time}}}}`;
  const T = 1_723_161_256_000;

  it('finds the time of the last publication in a message', () => {
    expect(timeAtEnd(`${push(T)}\n${push(T + 5)}`)).toBe(T + 5);
    expect(timeAtEnd(push(T, ',"tags":{"conflated":"6"}'))).toBe(T);
    expect(timeAtEnd(push(T, ',"tags":{"kind":"snapshot"}'))).toBeUndefined();
    expect(timeAtEnd('{"id":1,"subscribe":{}}')).toBeUndefined();
  });

  it('counts bytes and takes the median of the last second', () => {
    const meter = new SocketMeter();
    meter.message(push(T), T + 900);
    meter.message(push(T + 1000), T + 2000 - 500);
    meter.message(push(T + 1600), T + 1610);
    meter.message(push(T + 1700), T + 1720);
    expect(meter.bytes).toBe(4 * push(T).length);
    // The first is older than a second by now.
    expect(meter.age(T + 2000)).toBe(20);
    expect(meter.age(T + 9000)).toBeUndefined();
  });

  it('passes over what is not text', () => {
    const meter = new SocketMeter();
    meter.message(new ArrayBuffer(8), T);
    expect(meter.bytes).toBe(0);
  });
});
