import { describe, expect, it } from 'vitest';
import { addSample, HISTORY_MS, leastAge, nodeState, type Sample, sparkPath, totalsOf } from '../src/lib/ops';
import type { NodeReport } from '../src/lib/payloads';

const T = 1_723_161_256_000;

function node(change: Partial<NodeReport> = {}): NodeReport {
  return {
    name: 'a',
    version: '0.1.0',
    at: T,
    started_at: T - 60_000,
    ready: true,
    reasons: [],
    draining: false,
    sessions: 10,
    sessions_max: 100,
    sessions_by_shard: [5, 5],
    subscriptions: 20,
    topics: 30,
    slow_sessions: 1,
    backlog_bytes: 1000,
    queue_depth: 0,
    rss_bytes: 0,
    rates: { deltas: 1, deliveries: 2, conflated: 0, sent_bytes: 300 },
    sources: [{ name: 's', connected: true, lag_ms: 7, deltas: 0, note: null }],
    ...change,
  };
}

describe('nodeState', () => {
  it('is what the node says as long as it reports', () => {
    expect(nodeState(node(), T + 1000, 0).kind).toBe('ready');
    expect(nodeState(node({ draining: true, ready: false }), T, 0).kind).toBe('draining');
    expect(nodeState(node({ ready: false, reasons: ['lag'] }), T, 0)).toEqual({
      kind: 'not-ready',
      reasons: ['lag'],
    });
  });

  it('is silent after five seconds', () => {
    expect(nodeState(node(), T + 5000, 0).kind).toBe('ready');
    expect(nodeState(node(), T + 7000, 0)).toEqual({ kind: 'silent', forMs: 7000 });
  });

  it('does not mind a browser whose clock is an hour off', () => {
    const hour = 3_600_000;
    const nodes = { a: node(), b: node({ at: T - 9000 }) };
    for (const skew of [hour, -hour]) {
      const least = leastAge(Number.POSITIVE_INFINITY, nodes, T + skew);
      expect(nodeState(nodes.a, T + skew, least).kind).toBe('ready');
      expect(nodeState(nodes.b, T + skew, least)).toEqual({ kind: 'silent', forMs: 9000 });
    }
  });
});

describe('leastAge', () => {
  it('does not believe a report whose time cannot be true', () => {
    const nodes = { a: node(), b: node({ at: 0 }), c: node({ at: T + 1e12 }) };
    expect(leastAge(Number.POSITIVE_INFINITY, nodes, T + 50)).toBe(50);
  });
});

describe('totalsOf', () => {
  it('sums up the nodes that report; the same topics count once', () => {
    const nodes = {
      a: node(),
      b: node({ topics: 40, sources: [] }),
      c: node({ at: T - 60_000 }),
    };
    expect(totalsOf(nodes, T, 0)).toMatchObject({
      nodes: 3,
      ready: 2,
      sessions: 20,
      sessionsMax: 200,
      topics: 40,
      deliveries: 4,
      bytes: 600,
      slow: 2,
      lagMs: 7,
    });
  });
});

describe('history', () => {
  const sample = (at: number): Sample => ({ at, deliveries: 1, sessions: 1, lagMs: 1 });

  it('is bounded by time and has one sample a second', () => {
    let history: readonly Sample[] = [];
    for (let s = 0; s < 400; s += 1) history = addSample(history, sample(T + s * 1000));
    expect(history.length).toBe(HISTORY_MS / 1000 + 1);
    const again = addSample(history, sample(T + 399_500));
    expect(again.slice(-2).map((one) => one.at)).toEqual([T + 398_000, T + 399_500]);
  });

  it('is drawn from left to right, with a new line after a hole', () => {
    const points = [
      { at: T - HISTORY_MS, value: 0 },
      { at: T - 1000, value: 5 },
      { at: T, value: 10 },
    ];
    expect(sparkPath(points, T, 300, 21)).toBe('M0.0 20.5M299.0 10.5L300.0 0.5');
    expect(sparkPath([{ at: T, value: 0 }], T, 300, 21)).toBe('M300.0 20.5');
    expect(sparkPath([], T, 300, 21)).toBe('');
  });
});
