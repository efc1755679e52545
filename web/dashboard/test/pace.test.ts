import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Pace } from '../src/lib/pace';

describe('Pace', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('lets a burst through at once and the rest at its rate', () => {
    const pace = new Pace(3, 10, () => Date.now());
    let ran = 0;
    for (let i = 0; i < 8; i += 1) pace.request(() => (ran += 1));
    expect(ran).toBe(3);
    vi.advanceTimersByTime(250);
    expect(ran).toBe(5);
    vi.advanceTimersByTime(1000);
    expect(ran).toBe(8);
  });

  it('never runs more than burst plus rate, whoever asks', () => {
    const pace = new Pace(5, 10, () => Date.now());
    let ran = 0;
    for (let ms = 0; ms < 2000; ms += 10) {
      pace.request(() => (ran += 1));
      vi.advanceTimersByTime(10);
    }
    expect(ran).toBeLessThanOrEqual(5 + 20 + 1);
    expect(ran).toBeGreaterThanOrEqual(24);
  });

  it('does not spend a turn on who left', () => {
    const pace = new Pace(1, 10, () => Date.now());
    const ran: string[] = [];
    pace.request(() => ran.push('a'));
    const leave = pace.request(() => ran.push('b'));
    pace.request(() => ran.push('c'));
    leave();
    vi.advanceTimersByTime(120);
    expect(ran).toEqual(['a', 'c']);
  });
});
