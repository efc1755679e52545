import { describe, expect, it } from 'vitest';
import { applyMergePatch } from '../src/merge.js';

/** RFC 7396, appendix A: original, patch, result. */
const RFC_CASES: [unknown, unknown, unknown][] = [
  [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
  [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
  [{ a: 'b' }, { a: null }, {}],
  [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }],
  [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
  [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
  [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
  [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
  [
    ['a', 'b'],
    ['c', 'd'],
    ['c', 'd'],
  ],
  [{ a: 'b' }, ['c'], ['c']],
  [{ a: 'foo' }, null, null],
  [{ a: 'foo' }, 'bar', 'bar'],
  [{ e: null }, { a: 1 }, { e: null, a: 1 }],
  [[1, 2], { a: 'b', c: null }, { a: 'b' }],
  [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
];

describe('applyMergePatch', () => {
  it.each(RFC_CASES)('RFC 7396: %j with %j is %j', (original, patch, result) => {
    const before = structuredClone(original);
    expect(applyMergePatch(original, patch)).toEqual(result);
    expect(original).toEqual(before);
  });

  it('starts from nothing', () => {
    expect(applyMergePatch(undefined, { a: 1, b: null })).toEqual({ a: 1 });
  });

  it('shares what the patch does not reach', () => {
    const target = { b: { '1': 'x', '2': 'y' }, a: { '3': 'z' }, list: [1] };
    const result = applyMergePatch(target, { b: { '1': null } }) as typeof target;
    expect(result).not.toBe(target);
    expect(result.b).toEqual({ '2': 'y' });
    expect(result.b).not.toBe(target.b);
    expect(result.a).toBe(target.a);
    expect(result.list).toBe(target.list);
  });

  it('does not change a value that came with an earlier patch', () => {
    const patch = { a: { b: { c: 1 } } };
    const first = applyMergePatch({}, patch);
    applyMergePatch(first, { a: { b: { c: 2 } } });
    expect(patch).toEqual({ a: { b: { c: 1 } } });
    expect(first).toEqual({ a: { b: { c: 1 } } });
  });

  it('does not touch prototypes', () => {
    applyMergePatch({}, JSON.parse('{"__proto__":{"polluted":true}}'));
    applyMergePatch({}, JSON.parse('{"constructor":{"prototype":{"polluted":true}}}'));
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });

  it('applies members of any name, and those after them', () => {
    const patch = '{"a":1,"__proto__":{"x":{"y":1}},"constructor":2,"prototype":3,"toString":4,"":5,"z":6}';
    const whole = applyMergePatch({}, JSON.parse(patch));
    expect(JSON.stringify(whole)).toBe(patch);
    const changed = applyMergePatch(whole, JSON.parse('{"__proto__":{"x":{"w":2}},"constructor":null}'));
    expect(JSON.stringify(changed)).toBe(
      '{"a":1,"__proto__":{"x":{"y":1,"w":2}},"prototype":3,"toString":4,"":5,"z":6}',
    );
    expect(JSON.stringify(whole)).toBe(patch);
    expect(JSON.stringify(applyMergePatch(changed, JSON.parse('{"__proto__":null}')))).not.toContain(
      '__proto__',
    );
  });
});
