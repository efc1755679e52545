import { describe, expect, it } from 'vitest';
import { readParams } from '../src/app/params';
import { pathOf, routeOf } from '../src/app/route';

describe('readParams', () => {
  it('reads numbers and passes over the rest', () => {
    expect(readParams('?hidden_after=0&max_rate=2.5')).toEqual({
      hiddenAfterMs: 0,
      maxRate: 2.5,
      debug: false,
    });
    expect(readParams('?hidden_after=x&max_rate=-1&debug')).toEqual({
      hiddenAfterMs: undefined,
      maxRate: undefined,
      debug: true,
    });
    expect(readParams('?max_rate=')).toEqual({ hiddenAfterMs: undefined, maxRate: undefined, debug: false });
  });
});

describe('routes', () => {
  it('know their paths', () => {
    expect(['/', '/ops', '/ops/', '/opsx'].map(routeOf)).toEqual(['markets', 'ops', 'ops', 'markets']);
    expect(pathOf('ops')).toBe('/ops');
  });
});
