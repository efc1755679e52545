// The operators' page: computations on the reports of the nodes.
import type { NodeReport, Nodes } from './payloads';

/** A node that has not reported for longer counts as silent. Nodes report once per second. */
export const SILENT_MS = 5000;

/** Largest plausible difference between two clocks. */
const SKEW_MAX_MS = 24 * 3_600_000;

/** The state of a node. */
export type NodeState =
  | { kind: 'ready' }
  | { kind: 'not-ready'; reasons: readonly string[] }
  | { kind: 'draining' }
  | { kind: 'silent'; forMs: number };

/**
 * The smallest lead of the browser's clock over the reports. Reports have the time of their node, which need not
 * agree with the browser's: the freshest report that was ever seen counts as "now".
 */
export function leastAge(least: number, nodes: Nodes, now: number): number {
  let result = least;
  for (const id in nodes) {
    const node = nodes[id];
    // A report with an implausible time says nothing about the browser's clock.
    if (node !== undefined && Math.abs(now - node.at) < SKEW_MAX_MS) result = Math.min(result, now - node.at);
  }
  return result;
}

/** State of a node. `least` is from `leastAge`. */
export function nodeState(node: NodeReport, now: number, least: number): NodeState {
  const age = now - node.at - (Number.isFinite(least) ? least : 0);
  if (age > SILENT_MS) return { kind: 'silent', forMs: age };
  if (node.draining) return { kind: 'draining' };
  if (!node.ready) return { kind: 'not-ready', reasons: node.reasons };
  return { kind: 'ready' };
}

/** Sums over the nodes that report. */
export interface Totals {
  nodes: number;
  ready: number;
  sessions: number;
  sessionsMax: number;
  subscriptions: number;
  /** Most topics of one node. Nodes have the same topics, so a sum would count them several times. */
  topics: number;
  deliveries: number;
  deltas: number;
  bytes: number;
  backlog: number;
  slow: number;
  /** Largest lag of any source. */
  lagMs: number;
}

/** Sums over the nodes that are not silent. `nodes` counts all of them. */
export function totalsOf(nodes: Nodes, now: number, least: number): Totals {
  const totals: Totals = {
    nodes: 0,
    ready: 0,
    sessions: 0,
    sessionsMax: 0,
    subscriptions: 0,
    topics: 0,
    deliveries: 0,
    deltas: 0,
    bytes: 0,
    backlog: 0,
    slow: 0,
    lagMs: 0,
  };
  for (const node of Object.values(nodes)) {
    totals.nodes += 1;
    const { kind } = nodeState(node, now, least);
    if (kind === 'ready') totals.ready += 1;
    if (kind === 'silent') continue;
    totals.sessions += node.sessions;
    totals.sessionsMax += node.sessions_max;
    totals.subscriptions += node.subscriptions;
    totals.topics = Math.max(totals.topics, node.topics);
    totals.deliveries += node.rates.deliveries;
    totals.deltas += node.rates.deltas;
    totals.bytes += node.rates.sent_bytes;
    totals.backlog += node.backlog_bytes;
    totals.slow += node.slow_sessions;
    for (const source of node.sources) totals.lagMs = Math.max(totals.lagMs, source.lag_ms);
  }
  return totals;
}

/** One point of the history. */
export interface Sample {
  at: number;
  deliveries: number;
  sessions: number;
  lagMs: number;
}

/** Length of the history. */
export const HISTORY_MS = 5 * 60_000;

/** The history with one more sample, without those that are too old. Two in the same second count as one. */
export function addSample(history: readonly Sample[], sample: Sample): readonly Sample[] {
  const from = sample.at - HISTORY_MS;
  const kept = history.filter(
    (one) => one.at >= from && Math.floor(one.at / 1000) < Math.floor(sample.at / 1000),
  );
  return [...kept, sample];
}

/** A gap in the history longer than this is drawn as a gap. */
const HOLE_MS = 5000;

/** Path of a sparkline in a box of `width` × `height`: the newest at the right edge, zero at the bottom. */
export function sparkPath(
  points: readonly { at: number; value: number }[],
  now: number,
  width: number,
  height: number,
): string {
  const top = Math.max(...points.map((point) => point.value), 0);
  let path = '';
  let before = Number.NEGATIVE_INFINITY;
  for (const { at, value } of points) {
    const x = width * (1 - (now - at) / HISTORY_MS);
    // Half a pixel of margin, so that the line is not cut.
    const y = top === 0 ? height - 0.5 : height - 0.5 - (value / top) * (height - 1);
    path += `${at - before > HOLE_MS ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}`;
    before = at;
  }
  return path;
}
